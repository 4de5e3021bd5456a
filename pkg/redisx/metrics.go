package redisx

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// commandTimer feeds agentidp_redis_command_duration_seconds: a command under its name, a pipeline
// as one under "pipeline". Neither label carries a key.
type commandTimer struct{ metrics *telemetry.Metrics }

var _ redis.Hook = commandTimer{}

// DialHook leaves dialling as it is.
func (commandTimer) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook times one command.
func (t commandTimer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmd)
		t.metrics.RedisCommand.WithLabelValues(cmd.Name()).Observe(time.Since(start).Seconds())
		return err
	}
}

// ProcessPipelineHook times all commands of a pipeline as one.
func (t commandTimer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmds)
		t.metrics.RedisCommand.WithLabelValues("pipeline").Observe(time.Since(start).Seconds())
		return err
	}
}
