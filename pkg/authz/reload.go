package authz

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the files must stay as they are before they are read: an editor or a kubelet changes them in steps.
const settle = 100 * time.Millisecond

// Run reloads the policy on SIGHUP and when its files change, until ctx is done. A policy that is broken is logged and
// refused; the one before it stays. Without POLICY_DIR there is nothing to reload, and SIGHUP is left to the program.
func (a *Authorizer) Run(ctx context.Context) error {
	if a.cfg.PolicyDir == "" {
		<-ctx.Done()
		return nil
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch policy directory: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	dir := filepath.Clean(a.cfg.PolicyDir)
	// The parent tells when the directory itself is replaced, which ends the watch on it.
	if err := watcher.Add(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("watch policy directory: %w", err)
	}
	if err := watcher.Add(dir); err != nil {
		return fmt.Errorf("watch policy directory: %w", err)
	}
	// Catches what changed between New and the watch.
	a.reload(ctx, "start of watch")
	return a.watch(ctx, dir, watcher, hangup)
}

func (a *Authorizer) watch(ctx context.Context, dir string, watcher *fsnotify.Watcher, hangup <-chan os.Signal) error {
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			a.reload(ctx, "SIGHUP")
		case event := <-watcher.Events:
			if filepath.Clean(event.Name) == dir && event.Has(fsnotify.Create) {
				if err := watcher.Add(dir); err != nil {
					a.log.ErrorContext(ctx, "policy directory cannot be watched", "error", err)
				}
			} else if filepath.Dir(event.Name) != dir {
				continue
			}
			settled.Reset(settle)
		case err := <-watcher.Errors:
			a.log.ErrorContext(ctx, "watching the policy directory failed", "error", err)
		case <-settled.C:
			a.reload(ctx, "file change")
		}
	}
}

func (a *Authorizer) reload(ctx context.Context, why string) {
	if err := a.load(ctx); err != nil {
		a.log.ErrorContext(ctx, "policy refused, the one before it stays", "error", err, "why", why)
		return
	}
	a.log.InfoContext(ctx, "policy loaded", "dir", a.cfg.PolicyDir, "why", why)
}
