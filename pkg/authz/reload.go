package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the files must stay as they are before they are read: an editor or a kubelet changes them in steps.
const settle = 100 * time.Millisecond

// Run reloads the policy on SIGHUP and when its files change, until ctx is done; it returns nil. A policy that is broken is
// logged and refused; the one before it stays. Where files cannot be watched that is logged, and SIGHUP remains. Without
// POLICY_DIR there is nothing to reload, and SIGHUP is left to the program.
func (a *Authorizer) Run(ctx context.Context) error {
	if a.cfg.PolicyDir == "" {
		<-ctx.Done()
		return nil
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	dir := filepath.Clean(a.cfg.PolicyDir)
	watcher, err := watch(dir)
	if err != nil {
		a.log.ErrorContext(ctx, "policy files are not watched, only SIGHUP reloads them", slog.Any("error", err))
		watcher = &fsnotify.Watcher{} // its channels are nil: nothing comes
	} else {
		defer func() { _ = watcher.Close() }()
	}
	// Catches what changed between New and the watch.
	a.reload(ctx, "start of watch")
	a.follow(ctx, dir, watcher, hangup)
	return nil
}

func watch(dir string) (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch policy directory: %w", err)
	}
	// The parent tells when the directory itself is replaced, which ends the watch on it.
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := watcher.Add(path); err != nil {
			return nil, fmt.Errorf("watch policy directory: %w", errors.Join(err, watcher.Close()))
		}
	}
	return watcher, nil
}

func (a *Authorizer) follow(ctx context.Context, dir string, watcher *fsnotify.Watcher, hangup <-chan os.Signal) {
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			a.reload(ctx, "SIGHUP")
		case event := <-watcher.Events:
			if filepath.Clean(event.Name) == dir && event.Has(fsnotify.Create) {
				if err := watcher.Add(dir); err != nil {
					a.log.ErrorContext(ctx, "policy directory cannot be watched", slog.Any("error", err))
				}
			} else if filepath.Dir(event.Name) != dir {
				continue
			}
			settled.Reset(settle)
		case err := <-watcher.Errors:
			a.log.ErrorContext(ctx, "watching the policy directory failed", slog.Any("error", err))
		case <-settled.C:
			a.reload(ctx, "file change")
		}
	}
}

func (a *Authorizer) reload(ctx context.Context, why string) {
	if err := a.load(ctx); err != nil {
		a.log.ErrorContext(ctx, "policy refused, the one before it stays", slog.Any("error", err), slog.String("why", why))
		return
	}
	a.log.InfoContext(ctx, "policy loaded", slog.String("dir", a.cfg.PolicyDir), slog.String("why", why))
}
