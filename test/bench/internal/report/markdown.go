package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Line is a measurement in one line.
func Line(m Measurement) string {
	var cpu strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.CPUms)) {
		fmt.Fprintf(&cpu, " %s %.3f", name, m.CPUms[name])
	}
	return fmt.Sprintf("   %s: %.0f/s, ratio %.3f, p50 %.2f p95 %.2f p99 %.2f ms, behind %d, settled in %.0f ms\n"+
		"      raw RSA %.0f/s %.3f ms (share %.2f); CPU ms per request %.3f:%s",
		m.name(), m.PerSecond, m.Ratio, m.P50ms, m.P95ms, m.P99ms, m.Behind, m.SettleMs,
		m.RawRSA.PerSecond, m.RawRSA.CPUms, m.SignatureShare(), m.CPUAllMs, cpu.String())
}

// name says what was measured.
func (c Case) name() string {
	what := map[string]string{
		KindToken: "POST /token, " + c.Algorithm, KindCrowd: "POST /token, " + c.Algorithm + ", long",
		KindCold: "POST /token, " + c.Algorithm + ", cold", KindIntrospect: "POST /token/introspect",
		KindRead: "GET /agents/{agentId}", KindJWKS: "GET /.well-known/jwks.json",
	}[c.Kind]
	if c.Limits {
		what += ", limits on"
	}
	if c.InTurnWith != "" {
		what += ", in turn with " + c.InTurnWith
	}
	what = fmt.Sprintf("%s, %s", what, plural(c.Connections, "connection"))
	if c.Agents == 0 {
		return what
	}
	return what + ", " + plural(c.Agents, "agent")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// table writes rows as a Markdown table; columns but the first hold numbers.
type table struct {
	b *strings.Builder
}

func (t table) row(cells ...string) { fmt.Fprintf(t.b, "| %s |\n", strings.Join(cells, " | ")) }

func (t table) head(cells ...string) {
	fmt.Fprintln(t.b)
	t.row(cells...)
	fmt.Fprintf(t.b, "|---%s|\n", strings.Repeat("|---:", len(cells)-1))
}

// Markdown is the whole run for people; docs/performance.md shows one.
func Markdown(r *Results) string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s UTC, commit %s, took %s: %d × %s, %.1f GiB, Linux %s, %s, load average at the start %s.\n",
		r.Started.Format("2006-01-02 15:04"), m.Commit, r.Took, m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.Kernel, m.Go, m.Load)
	if r.Quick {
		fmt.Fprintln(&b, "\nA quick run: short measurements, fewer agents.")
	}
	if unquiet := r.unquiet(); unquiet > 0 {
		fmt.Fprintf(&b, "\nThe machine was not quiet in %d of %d measurements (marked with *): believe their CPU times, not their rates.\n",
			unquiet, len(r.Measurements))
	}
	t := table{&b}
	targets := Targets(r)
	if len(targets) > 0 {
		fmt.Fprint(&b, "\n**Targets**\n")
		t.head("what", "aim", "found", "")
		for _, target := range targets {
			verdict := "reached"
			if !target.Reached {
				verdict = "**missed**"
			}
			if target.Doubt != "" {
				verdict += " in doubt: " + target.Doubt
			}
			t.row(target.Name, target.Aim, target.Found, verdict)
		}
	}
	measurements(t, r)
	processes(t, r)
	serverCalls(t, r)
	parts(t, r)
	floods(t, r)
	return b.String()
}

// unquiet is how many measurements were disturbed.
func (r *Results) unquiet() int {
	count := 0
	for _, m := range r.Measurements {
		if m.Unquiet() != "" {
			count++
		}
	}
	return count
}

func measurements(t table, r *Results) {
	if len(r.Measurements) == 0 {
		return
	}
	fmt.Fprint(t.b, "\n**Measured**, medians where there were several rounds; ratio: to raw RSA-2048 signatures per second, measured right before and after\n")
	t.head("what", "rounds", "per s", "raw RSA per s", "ratio", "p50 ms", "p95 ms", "p99 ms", "CPU ms each", "of it token / all services", "CPU ms of an RSA signature", "its share")
	for _, m := range r.Measurements {
		services := 0.0
		for _, name := range Services() {
			services += m.CPUms[name]
		}
		name := m.name()
		if m.Unquiet() != "" {
			name += " *"
		}
		t.row(name, fmt.Sprint(m.Rounds), fmt.Sprintf("%.0f", m.PerSecond), fmt.Sprintf("%.0f", m.RawRSA.PerSecond),
			fmt.Sprintf("%.3f", m.Ratio), fmt.Sprintf("%.2f", m.P50ms), fmt.Sprintf("%.2f", m.P95ms), fmt.Sprintf("%.2f", m.P99ms),
			fmt.Sprintf("%.3f", m.CPUAllMs), fmt.Sprintf("%.3f / %.3f", m.CPUms["token"], services), fmt.Sprintf("%.3f", m.RawRSA.CPUms), fmt.Sprintf("%.2f", m.SignatureShare()))
	}
	if r.RawBcrypt > 0 {
		fmt.Fprintf(t.b, "\nbcrypt of the service's work factor on all cores of this machine: %.1f per second.\n", r.RawBcrypt)
	}
	usualCPU(t, r)
}

// usualCPU shows which process a token's time goes to.
func usualCPU(t table, r *Results) {
	names := []string{"token", "audit", "registry", "credentials", "nats", "postgres", "redis", "bench"}
	first := true
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		m, found := r.Find(token(algorithm))
		if !found {
			continue
		}
		if first {
			fmt.Fprint(t.b, "\n**CPU ms per warm token by process**, 32 connections, 1 agent; bench is the load generator\n")
			t.head(append([]string{""}, names...)...)
			first = false
		}
		cells := append(make([]string, 0, 1+len(names)), algorithm)
		for _, name := range names {
			cells = append(cells, fmt.Sprintf("%.3f", m.CPUms[name]))
		}
		t.row(cells...)
	}
}

func processes(t table, r *Results) {
	if len(r.Startup)+len(r.Idle)+len(r.UnderLoad) == 0 {
		return
	}
	fmt.Fprint(t.b, "\n**Processes**; under load: the peak of the whole run\n")
	t.head("", "ready after ms", "idle MiB", "under load MiB")
	for _, name := range append(Services(), "nats", "redis") {
		cells := []string{name, "", "", ""}
		if ms, found := r.Startup[name]; found {
			cells[1] = fmt.Sprintf("%.0f", ms)
		}
		if m, found := r.Idle[name]; found {
			cells[2] = fmt.Sprintf("%.0f", mib(m.RSS))
		}
		if m, found := r.UnderLoad[name]; found {
			cells[3] = fmt.Sprintf("%.0f", mib(m.Peak))
		}
		t.row(cells...)
	}
	if r.Soak == nil {
		return
	}
	fmt.Fprintf(t.b, "\nMemory over %d tokens, a sample every %.0f s, MiB:\n\n", r.Soak.Tokens, r.Soak.Seconds)
	for _, name := range slices.Sorted(maps.Keys(r.Soak.RSS)) {
		samples := make([]string, 0, len(r.Soak.RSS[name]))
		for _, bytes := range r.Soak.RSS[name] {
			samples = append(samples, fmt.Sprintf("%.0f", mib(bytes)))
		}
		fmt.Fprintf(t.b, "- %s: %s\n", name, strings.Join(samples, " "))
	}
}

func serverCalls(t table, r *Results) {
	if len(r.Counts) == 0 {
		return
	}
	fmt.Fprint(t.b, "\n**Calls per warm token**; in brackets what is counted per second when nobody asks for anything, which is taken off\n")
	t.head("", "token_app", "registry_app", "credentials_app", "audit_app", "Redis round trips", "Redis commands", "JetStream messages")
	for _, c := range r.Counts {
		name := "limits off"
		if c.Limits {
			name = "limits on"
		}
		cells := []string{name}
		figure := func(read func(ServerCalls) float64) {
			cells = append(cells, fmt.Sprintf("%.4f (%.1f)", c.PerToken(read), read(c.Idle)/max(c.Idle.Seconds, 1e-9)))
		}
		for _, role := range []string{"token_app", "registry_app", "credentials_app", "audit_app"} {
			figure(func(s ServerCalls) float64 { return s.Statements[role] })
		}
		figure(func(s ServerCalls) float64 { return s.RedisReads })
		cells = append(cells, commands(c))
		figure(func(s ServerCalls) float64 { return s.Published })
		t.row(cells...)
	}
}

// commands lists what Redis was told, for each token.
func commands(c Counts) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.Load.Commands)) {
		per := c.PerToken(func(s ServerCalls) float64 { return s.Commands[name] })
		if per >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %.2f", name, per))
		}
	}
	return strings.Join(parts, ", ")
}

func parts(t table, r *Results) {
	p := r.Profile
	if p == nil {
		return
	}
	fmt.Fprintf(t.b, "\n**CPU of the token service**, RS256, 32 connections (%s)\n", p.File)
	t.head("part", "share")
	for _, name := range byShare(p.Share) {
		t.row(name, percent(p.Share[name]))
	}
	fmt.Fprint(t.b, "\nThe rest consists of")
	for i, name := range byShare(p.Rest) {
		if i > 11 || p.Rest[name] < 0.001 {
			break
		}
		fmt.Fprintf(t.b, "%s %s %s", map[bool]string{true: "", false: ","}[i == 0], name, percent(p.Rest[name]))
	}
	fmt.Fprintln(t.b, ".")
}

func byShare(shares map[string]float64) []string {
	names := slices.Collect(maps.Keys(shares))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(shares[b], shares[a]), cmp.Compare(a, b)) })
	return names
}

func floods(t table, r *Results) {
	if len(r.Floods) == 0 {
		return
	}
	fmt.Fprint(t.b, "\n**A flood of wrong secrets** by one process on one core, half of them for agents that exist\n")
	t.head("", "good tokens/s quiet", "flooded", "left", "refused", "p99 ms quiet", "flooded", "never seen, refused", "slowest ms quiet", "flooded",
		"attempts/s", "attacker's cores", "busy", "its answers", "token's peak MiB")
	for _, f := range r.Floods {
		var answers []string
		for _, status := range slices.Sorted(maps.Keys(f.Answers)) {
			answers = append(answers, fmt.Sprintf("%s: %d", status, f.Answers[status]))
		}
		answers = append(answers, fmt.Sprintf("hung up: %d", f.Unanswered))
		t.row(f.Name, fmt.Sprintf("%.0f", f.QuietPerSecond), fmt.Sprintf("%.0f", f.FloodPerSecond), fmt.Sprintf("%.2f", f.Left),
			fmt.Sprint(f.Refused), fmt.Sprintf("%.1f", f.QuietP99ms), fmt.Sprintf("%.1f", f.FloodP99ms),
			fmt.Sprintf("%d of %d", f.ColdRefused, f.ColdAsked), fmt.Sprintf("%.0f", f.ColdQuietMs), fmt.Sprintf("%.0f", f.ColdFloodMs),
			fmt.Sprintf("%.0f", f.AttackPerSecond), fmt.Sprintf("%.2f", f.AttackCPU), percent(f.AttackBusy), strings.Join(answers, ", "),
			fmt.Sprintf("%.0f", mib(f.Peak)))
	}
}
