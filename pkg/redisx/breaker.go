package redisx

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// After tripAfter commands in a row that were not answered in time, each tried twice, commands fail at once for openFor;
	// then one is let through to find out whether the server answers again. So a server that hangs holds up one request
	// about once a second, and one that is back is found within that.
	tripAfter = 3
	openFor   = 200 * time.Millisecond
)

// breaker keeps commands from a server that hangs. One that refuses them is none of its business: that is told at once.
type breaker struct {
	*gobreaker.CircuitBreaker[struct{}]
}

var _ redis.Hook = breaker{}

func newBreaker(tel *telemetry.Telemetry) breaker {
	return breaker{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      openFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsSuccessful: func(err error) bool { return !hangs(err) },
		// Who left before the answer has found nothing out.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case tel == nil:
			case from == gobreaker.StateClosed:
				tel.Log.Warn("redis does not answer in time: requests go on without it")
			case to == gobreaker.StateClosed:
				tel.Log.Warn("redis is asked again by every request")
			}
		},
	})}
}

// hangs tells of the error of a command that the server neither answered nor refused.
func hangs(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() || errors.Is(err, redis.ErrPoolTimeout)
}

// DialHook leaves dialling as it is.
func (breaker) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook guards one command.
func (b breaker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := b.guard(ctx, func(ctx context.Context) error { return next(ctx, cmd) })
		if kept(err) {
			cmd.SetErr(err)
		}
		return err
	}
}

// ProcessPipelineHook guards all commands of a pipeline as one.
func (b breaker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := b.guard(ctx, func(ctx context.Context) error { return next(ctx, cmds) })
		if kept(err) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// letIn marks the context of a command that was let in: what greets the server on a connection that is made for it
// comes by here as well, and belongs to it.
type letIn struct{}

func (b breaker) guard(ctx context.Context, send func(ctx context.Context) error) error {
	if ctx.Value(letIn{}) != nil || ctx.Err() != nil { // who has left asks nobody
		return send(ctx)
	}
	_, err := b.Execute(func() (struct{}, error) {
		return struct{}{}, send(context.WithValue(ctx, letIn{}, true))
	})
	return err
}

// kept tells of the error of commands that were not sent.
func kept(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
}
