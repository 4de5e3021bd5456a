package rig

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"syscall"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sentryagent/agentidp/test/internal/proc"
)

// The servers by the names they have beside the replicas of the services.
const (
	natsName     = "nats"
	redisName    = "redis"
	postgresName = "postgres"
)

// Servers are the names of those that are not ours.
func Servers() []string { return []string{natsName, redisName, postgresName} }

// Kill ends a replica or a server at once and waits until it is gone. Postgres is ended by an immediate shutdown: killing
// its first process alone would leave the others, and then it refuses to start.
func (r *Rig) Kill(name string) error {
	how, wait := syscall.SIGKILL, r.gone(name)
	if name == postgresName {
		how = syscall.SIGQUIT
	}
	pid, err := r.pid(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, how); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	<-wait
	return nil
}

// KillAll ends all processes of a replica or a server at once, as when its machine goes: what is frozen too.
func (r *Rig) KillAll(name string) error {
	wait := r.gone(name)
	if err := r.signalAll(name, syscall.SIGKILL); err != nil {
		return err
	}
	<-wait
	return nil
}

// gone is closed when the process that runs now has ended.
func (r *Rig) gone(name string) <-chan struct{} {
	switch name {
	case natsName:
		return r.nats.done
	case redisName:
		return r.redis.Done()
	case postgresName:
		return r.postgres.Done()
	default:
		return r.services[name].done
	}
}

func (r *Rig) pid(name string) (int, error) {
	switch name {
	case natsName:
		return r.nats.pid(), nil
	case redisName, postgresName:
		return r.serverPID(name)
	default:
		return r.services[name].pid(), nil
	}
}

// Revive starts what was killed again, on the same port and data. It waits for servers until they answer, but not for
// services, which may wait for something else that is away.
func (r *Rig) Revive(ctx context.Context, name string) error {
	switch name {
	case natsName:
		port, err := portOf(r.natsURL)
		if err != nil {
			return err
		}
		return r.openNATS(strconv.Itoa(port))
	case redisName:
		return r.redis.Restart(ctx)
	case postgresName:
		port, err := portOf(r.postgres.AdminURL())
		if err != nil {
			return err
		}
		return r.openPostgres(ctx, port)
	default:
		return r.launch(name, nil)
	}
}

func portOf(address string) (int, error) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, errors.New("address of a server is no URL")
	}
	return strconv.Atoi(u.Port())
}

// Freeze stops a replica or a server where it stands, all its processes; it keeps its connections and locks.
func (r *Rig) Freeze(name string) error { return r.signalAll(name, syscall.SIGSTOP) }

// Thaw lets it go on.
func (r *Rig) Thaw(name string) error { return r.signalAll(name, syscall.SIGCONT) }

func (r *Rig) signalAll(name string, signal syscall.Signal) error {
	first, err := r.pid(name)
	if err != nil {
		return err
	}
	// It may make more of the others until it is frozen; and once it is killed they are no longer its children.
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	children, err := proc.Children(proc.Root, first)
	if err != nil {
		return err
	}
	if signal != syscall.SIGSTOP {
		if err := syscall.Kill(first, signal); err != nil {
			return fmt.Errorf("signal %s: %w", name, err)
		}
	}
	for _, child := range children {
		if err := syscall.Kill(child, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal %s: %w", name, err)
		}
	}
	return nil
}

// EmptyRedis takes all its data away.
func (r *Rig) EmptyRedis(ctx context.Context) error { return r.cache.FlushAll(ctx).Err() }

// DeleteConsumers deletes every durable consumer of a stream and answers how many there were.
func (r *Rig) DeleteConsumers(ctx context.Context, stream string) (int, error) {
	held, err := r.stream.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	deleted := 0
	names := held.ConsumerNames(ctx)
	for name := range names.Name() {
		if err := held.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return deleted, fmt.Errorf("delete the consumer %s of %s: %w", name, stream, err)
		}
		deleted++
	}
	return deleted, names.Err()
}
