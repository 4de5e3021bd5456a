package dev

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestTheWelcomeHasExactlyThreeCommands(t *testing.T) {
	t.Parallel()
	op := operator{clientID: uuid.New(), secret: "sk_live_abc"}
	text := welcome("http://127.0.0.1:8080", op, &dataDir{path: "/data"}, 1.25, false)

	var commands []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "curl") {
			commands = append(commands, line)
		}
	}
	require.Len(t, commands, 3)
	require.True(t, strings.HasPrefix(commands[0], "TOKEN=$(curl "))
	require.True(t, strings.HasPrefix(commands[1], "curl "))
	require.Contains(t, commands[1], `"allowedScopes":["agents:read"]`, "or it has all of the operator's but one")
	require.True(t, strings.HasPrefix(commands[2], "curl "))
	require.NotContains(t, text, "--noproxy")
	require.Contains(t, text, "base URL       http://127.0.0.1:8080\n")
	require.Contains(t, text, "client_id      "+op.clientID.String()+"\n")
	require.Contains(t, text, "client_secret  sk_live_abc\n")
	require.Contains(t, text, "/data/operator.env")

	require.Contains(t, welcome("u", op, &dataDir{path: "/data"}, 1, true), "curl -sS --noproxy 127.0.0.1 ")
	require.Contains(t, welcome("u", op, &dataDir{path: "/data", ephemeral: true}, 1, false), "goes with it")
}

func TestAProxyInTheEnvironmentIsNoticed(t *testing.T) {
	t.Parallel()
	require.False(t, proxied(lookup(map[string]string{"http_proxy": "", "https_proxy": "http://x"})))
	require.True(t, proxied(lookup(map[string]string{"http_proxy": "http://x"})))
	require.True(t, proxied(lookup(map[string]string{"ALL_PROXY": "http://x"})))
}

func TestProgressSaysWhatWasDoneAndHowLongItTook(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	p := newProgress(&out, func() time.Time {
		now = now.Add(time.Second)
		return now
	})
	require.NoError(t, p.step("NATS", func() (string, error) { return "port 4", nil }))
	require.ErrorIs(t, p.step("Redis", func() (string, error) { return "", os.ErrInvalid }), os.ErrInvalid)
	p.note("port %d", 7)
	require.Equal(t, "  ok    NATS           1.00 s  port 4\n  FAIL  Redis          1.00 s\n  note  port 7\n", out.String())
	require.InDelta(t, 5, p.elapsed(), 0.01)
}
