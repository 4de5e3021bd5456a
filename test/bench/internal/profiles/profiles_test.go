package profiles

import (
	"bytes"
	"testing"

	"github.com/google/pprof/profile"
	"github.com/stretchr/testify/require"
)

const (
	handler = product + "services/token/internal/httpapi.(*api).token"
	serve   = "net/http.(*conn).serve"
)

func TestAStackBelongsToItsInnermostOwner(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		stack        []string // innermost first
		part, detail string
	}{
		"an RSA signature": {
			[]string{"crypto/internal/fips140/bigmod.addMulVVW2048", "crypto/rsa.SignPKCS1v15",
				"github.com/golang-jwt/jwt/v5.(*SigningMethodRSA).Sign", product + "services/token/internal/keys.(*SigningKey).Sign", handler, serve},
			Signing, "crypto/internal/fips140/bigmod",
		},
		"base64 while signing": {
			[]string{"encoding/base64.(*Encoding).Encode", product + "services/token/internal/keys.(*SigningKey).Sign", handler, serve},
			Signing, "services/token/internal/keys",
		},
		"choosing the key is not signing": {
			[]string{product + "services/token/internal/keys.(*Ring).Signer", handler, serve}, Rest, "services/token/internal/keys",
		},
		"JSON in our handler": {
			[]string{"runtime.mallocgc", "encoding/json.Marshal", handler, "github.com/gin-gonic/gin.(*Context).Next", serve},
			Rest, "services/token/internal/httpapi",
		},
		"our middleware between gin's frames": {
			[]string{product + "pkg/httpx.requestID", "github.com/gin-gonic/gin.(*Context).Next", serve}, Rest, "pkg/httpx",
		},
		"a header that our handler sets": {
			[]string{"runtime.mapassign", "net/textproto.MIMEHeader.Set", "net/http.Header.Set", handler, serve}, HTTP, "net/textproto",
		},
		"reading a request": {
			[]string{"syscall.Syscall", "internal/poll.(*FD).Read", "net.(*conn).Read", "net/http.(*connReader).Read", serve},
			HTTP, "net/http",
		},
		"writing to Redis": {
			[]string{"syscall.Syscall", "net.(*conn).Write", "bufio.(*Writer).Flush", "github.com/redis/go-redis/v9/internal/pool.(*Conn).WithWriter", handler, serve},
			Redis, "github.com/redis/go-redis/v9/internal/pool",
		},
		"our own metric around a Redis call": {
			[]string{"github.com/prometheus/client_golang/prometheus.(*histogram).Observe", product + "pkg/redisx.hook.ProcessHook.func1",
				"github.com/redis/go-redis/v9.(*Client).Process", handler, serve},
			Rest, "pkg/redisx",
		},
		"publishing": {
			[]string{"syscall.Syscall", "net.(*conn).Write", "github.com/nats-io/nats%2ego.(*natsWriter).flush", "github.com/nats-io/nats%2ego.(*Conn).flusher"},
			NATS, "github.com/nats-io/nats.go",
		},
		"the collector":           {[]string{"runtime.scanobject", "runtime.gcDrain", "runtime.gcBgMarkWorker"}, Rest, Collector},
		"the scheduler":           {[]string{"runtime.epollwait", "runtime.netpoll", "runtime.findRunnable", "runtime.schedule", "runtime.mcall"}, Rest, Scheduler},
		"other work of a runtime": {[]string{"runtime.futex", "runtime.notewakeup"}, Rest, Runtime},
		"somebody else's loop":    {[]string{"runtime.mallocgc", "github.com/maypok86/otter/v2.(*cache).clean"}, Rest, "github.com/maypok86/otter/v2"},
		"nothing":                 {nil, Rest, Runtime},
	} {
		part, detail := attribute(row.stack)
		require.Equal(t, row.part, part, name)
		require.Equal(t, row.detail, detail, name)
	}
}

// encode makes a CPU profile of stacks, each with its nanoseconds.
func encode(t *testing.T, stacks map[string]int64) []byte {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	for name, nanoseconds := range stacks {
		id := uint64(len(p.Function) + 1)
		function := &profile.Function{ID: id, Name: name}
		location := &profile.Location{ID: id, Line: []profile.Line{{Function: function}}}
		p.Function, p.Location = append(p.Function, function), append(p.Location, location)
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{location}, Value: []int64{1, nanoseconds}})
	}
	var out bytes.Buffer
	require.NoError(t, p.Write(&out))
	return out.Bytes()
}

func TestAProfileIsSplitByTimeAndNotBySamples(t *testing.T) {
	t.Parallel()
	split, err := Parse(encode(t, map[string]int64{
		"crypto/rsa.SignPKCS1v15": 700, serve: 100, "github.com/nats-io/nats%2ego.(*Conn).flusher": 50,
		product + "pkg/guard.(*Guard).admit": 100, "runtime.gcBgMarkWorker": 50,
	}))
	require.NoError(t, err)
	require.InDeltaMapValues(t, map[string]float64{Signing: 0.7, HTTP: 0.1, Redis: 0, NATS: 0.05, Rest: 0.15}, split.Share, 1e-9)
	require.InDeltaMapValues(t, map[string]float64{"pkg/guard": 0.1, Collector: 0.05}, split.Rest, 1e-9)
}

func TestWhatIsNoProfileIsAnError(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte("no profile"))
	require.Error(t, err)
	_, err = Parse(encode(t, nil))
	require.Error(t, err)
}
