// Package profiles splits a CPU profile of the token service by what the time was spent on. It decides by the names of
// the functions on the stack alone.
package profiles

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/pprof/profile"
)

// The parts of a profile. What belongs to none of the first four is the rest: all that is our own.
const (
	Signing = "signing"
	HTTP    = "http"
	Redis   = "redis"
	NATS    = "nats"
	Rest    = "rest"
)

// The runtime's own work that belongs to no request. It is part of the rest.
const (
	Collector = "runtime: garbage collection"
	Scheduler = "runtime: scheduler and network poller"
	Runtime   = "runtime: other"
)

const product = "github.com/sentryagent/agentidp/"

// owners says which functions belong to which part, by prefixes of their full names. A function of the standard library
// that is not here (JSON, memory, system calls, TCP) belongs to whoever called it.
func owners() map[string][]string {
	return map[string][]string{
		Signing: {
			product + "services/token/internal/keys.(*SigningKey)", "crypto/rsa.", "crypto/ecdsa.", "crypto/ed25519.",
			"crypto/internal/fips140/rsa.", "crypto/internal/fips140/bigmod.", "crypto/internal/fips140/ecdsa.",
			"crypto/internal/fips140/ed25519.", "crypto/internal/fips140/edwards25519", "crypto/internal/fips140/nistec",
		},
		HTTP:  {"net/http.", "net/http/internal", "net/textproto.", "github.com/gin-gonic/gin."},
		Redis: {"github.com/redis/go-redis/"},
		NATS:  {"github.com/nats-io/nats%2ego"}, // as the linker writes a dot in the last element of a path
		Rest:  {product},
	}
}

// Split is the share of each part, and what the rest consists of: our packages, and the runtime's own work. Both are
// shares of the whole profile.
type Split struct {
	Share map[string]float64
	Rest  map[string]float64
}

// Parse splits a profile in pprof's format.
func Parse(encoded []byte) (Split, error) {
	p, err := profile.Parse(bytes.NewReader(encoded))
	if err != nil {
		return Split{}, fmt.Errorf("read the profile: %w", err)
	}
	split := Split{Share: map[string]float64{Signing: 0, HTTP: 0, Redis: 0, NATS: 0, Rest: 0}, Rest: map[string]float64{}}
	at := len(p.SampleType) - 1 // of a CPU profile: nanoseconds
	total := 0.0
	for _, sample := range p.Sample {
		value := float64(sample.Value[at])
		total += value
		part, detail := attribute(stack(sample))
		split.Share[part] += value
		if part == Rest {
			split.Rest[detail] += value
		}
	}
	if total == 0 {
		return Split{}, fmt.Errorf("the profile is empty")
	}
	for _, shares := range []map[string]float64{split.Share, split.Rest} {
		for name := range shares {
			shares[name] /= total
		}
	}
	return split, nil
}

// stack lists the functions of a sample, the innermost first.
func stack(sample *profile.Sample) []string {
	var names []string
	for _, location := range sample.Location {
		for _, line := range location.Line {
			if line.Function != nil {
				names = append(names, line.Function.Name)
			}
		}
	}
	return names
}

// attribute gives a stack to the innermost function that somebody owns: what JSON costs inside of our handler is the
// rest, though net/http called the handler; what net/http costs that our handler called is HTTP.
func attribute(stack []string) (part, detail string) {
	known := owners()
	for _, name := range stack {
		for _, part := range []string{Signing, HTTP, Redis, NATS, Rest} {
			for _, prefix := range known[part] {
				if strings.HasPrefix(name, prefix) {
					return part, packageOf(name)
				}
			}
		}
	}
	return Rest, background(stack)
}

// background names the work of a stack without an owner.
func background(stack []string) string {
	for _, name := range stack {
		switch {
		case strings.HasPrefix(name, "runtime.gcBgMarkWorker"), strings.HasPrefix(name, "runtime.bgsweep"),
			strings.HasPrefix(name, "runtime.bgscavenge"), strings.HasPrefix(name, "runtime.gcAssist"),
			strings.HasPrefix(name, "runtime.gcStart"), strings.HasPrefix(name, "runtime.gcMark"):
			return Collector
		case strings.HasPrefix(name, "runtime.mcall"), strings.HasPrefix(name, "runtime.schedule"),
			strings.HasPrefix(name, "runtime.findRunnable"), strings.HasPrefix(name, "runtime.sysmon"),
			strings.HasPrefix(name, "runtime.mstart"), strings.HasPrefix(name, "runtime.park_m"):
			return Scheduler
		}
	}
	for _, name := range stack {
		if !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "runtime/") && !strings.HasPrefix(name, "internal/") {
			return packageOf(name)
		}
	}
	return Runtime
}

// packageOf is the package of a function, ours without the module's name: "services/token/internal/issue".
func packageOf(function string) string {
	path := strings.TrimPrefix(function, product)
	slash := strings.LastIndexByte(path, '/')
	dot := strings.IndexByte(path[slash+1:], '.')
	if dot < 0 {
		return path
	}
	return strings.ReplaceAll(path[:slash+1+dot], "%2e", ".")
}
