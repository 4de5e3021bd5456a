package report

import (
	"fmt"
	"maps"
	"slices"
)

// Target is something that is aimed at, and what was found.
type Target struct {
	Name    string `json:"name"`
	Aim     string `json:"aim"`
	Found   string `json:"found"`
	Reached bool   `json:"reached"`
	// Doubt is why the verdict is not worth much, "" when it is.
	Doubt string `json:"doubt,omitempty"`
}

func newTarget(name, aim, found string, reached bool) Target {
	return Target{Name: name, Aim: aim, Found: found, Reached: reached}
}

const (
	usual = 32 // connections of the figures that targets stand on

	aimRS256      = 0.70
	aimFaster     = 3.5
	aimP99        = 2.5
	aimCrowd      = 1.10
	aimIntrospect = 5
	aimRead       = 3
	aimRest       = 0.25
	aimMemory     = 150 << 20
	aimFlat       = 0.05
	aimLeft       = 0.5
	// one token in so many may cause a statement, a round trip or a message that is nobody's, and not count.
	negligible = 0.01
)

// Targets holds what was measured against what is aimed at; what was not measured is not in it.
func Targets(r *Results) []Target {
	var all []Target
	all = append(all, speed(r)...)
	all = append(all, tail(r)...)
	all = append(all, crowd(r)...)
	all = append(all, calls(r)...)
	if p := r.Profile; p != nil {
		rest := p.Share["rest"]
		all = append(all, newTarget("CPU outside of signing, HTTP, Redis and NATS", "≤ 25 %", percent(rest), rest <= aimRest))
	}
	all = append(all, memory(r)...)
	all = append(all, floodTargets(r.Floods)...)
	for _, action := range slices.Sorted(maps.Keys(r.Audit)) {
		a := r.Audit[action]
		found := fmt.Sprintf("%d for %d", a.Stored, a.Answered)
		if a.Unsure > 0 {
			found += fmt.Sprintf(" and %d that were not waited for", a.Unsure)
		}
		all = append(all, Target{Name: "events " + action + " for answers", Aim: "equal", Found: found, Reached: a.Even()})
	}
	return all
}

func token(algorithm string) Case {
	return Case{Kind: KindToken, Algorithm: algorithm, Connections: usual, Agents: 1}
}

// doubted marks a target when the machine was not quiet during one of the measurements that it stands on.
func (t Target) doubted(measurements ...Measurement) Target {
	for _, m := range measurements {
		if sign := m.Unquiet(); sign != "" && t.Doubt == "" {
			t.Doubt = "machine not quiet: " + sign
		}
	}
	return t
}

// InTurnWith are the tokens that a kind of request is compared with, round by round.
func InTurnWith(kind string) Case {
	c := token("RS256")
	c.InTurnWith = kind
	return c
}

// against says how many times as fast and as cheap m is as base. Where both were measured in turn they compare as they are,
// else each by the signing rate beside it, so that two of different minutes compare.
func (m Measurement) against(base Measurement) (times, cheaper float64) {
	if base.InTurnWith == m.Kind {
		return m.PerSecond / base.PerSecond, base.CPUAllMs / m.CPUAllMs
	}
	return m.Ratio / base.Ratio, m.SignatureShare() / base.SignatureShare()
}

// speed are the throughputs. What counts is never more than what the processor time says: four services get more of a
// crowded machine than two threads that sign, and a ratio then says more than there is.
func speed(r *Results) []Target {
	var all []Target
	if base, known := r.Find(token("RS256")); known {
		all = append(all, newTarget(
			"RS256, warm tokens ÷ raw RSA-2048 signatures", fmt.Sprintf("≥ %.2f", aimRS256),
			fmt.Sprintf("%.3f, a signature is %.2f of a token's CPU", base.Ratio, base.SignatureShare()),
			min(base.Ratio, base.SignatureShare()) >= aimRS256,
		).doubted(base))
	}
	for _, row := range []struct {
		name     string
		of, base Case
		aim      float64
	}{
		{"ES256 ÷ RS256", token("ES256"), token("RS256"), aimFaster},
		{"EdDSA ÷ RS256", token("EdDSA"), token("RS256"), aimFaster},
		{"introspection ÷ RS256 tokens", Case{Kind: KindIntrospect, Algorithm: "RS256", Connections: usual, Agents: 100}, InTurnWith(KindIntrospect), aimIntrospect},
		{"GET /agents/{agentId} ÷ RS256 tokens", Case{Kind: KindRead, Algorithm: "RS256", Connections: usual, Agents: 100}, InTurnWith(KindRead), aimRead},
	} {
		base, known := r.Find(row.base)
		m, found := r.Find(row.of)
		if !known || !found || base.Ratio == 0 || base.SignatureShare() == 0 {
			continue
		}
		times, cheaper := m.against(base)
		all = append(all, newTarget(row.name, fmt.Sprintf("≥ %.1f", row.aim), fmt.Sprintf("%.2f, by CPU %.2f", times, cheaper),
			min(times, cheaper) >= row.aim).doubted(base, m))
	}
	return all
}

// tail is p99 against the time that an answer takes when all connections are served in turn.
func tail(r *Results) []Target {
	var all []Target
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		m, found := r.Find(token(algorithm))
		if !found || m.PerSecond == 0 {
			continue
		}
		times := m.P99ms / 1000 / (usual / m.PerSecond)
		all = append(all, newTarget(
			algorithm+", p99 at 32 connections ÷ (32 ÷ throughput)", fmt.Sprintf("≤ %.1f", aimP99), fmt.Sprintf("%.2f", times), times <= aimP99,
		).doubted(m))
	}
	return all
}

// crowd compares many agents with one, both in processor time and in throughput.
func crowd(r *Results) []Target {
	var one, many Measurement
	for _, m := range r.Measurements {
		if m.Kind != KindCrowd {
			continue
		}
		if m.Agents == 1 {
			one = m
		} else {
			many = m
		}
	}
	if one.Ratio == 0 || many.Ratio == 0 {
		return nil
	}
	slower := one.Ratio / many.Ratio
	name := fmt.Sprintf("%d agents ÷ 1 agent, ", many.Agents)
	dearer := (many.CPUAllMs / many.RawRSA.CPUms) / (one.CPUAllMs / one.RawRSA.CPUms)
	aim := fmt.Sprintf("≤ %.2f", aimCrowd)
	return []Target{
		newTarget(name+"time per token", aim, fmt.Sprintf("%.3f", slower), slower <= aimCrowd).doubted(one, many),
		newTarget(name+"CPU per token", aim, fmt.Sprintf("%.3f", dearer), dearer <= aimCrowd),
	}
}

// calls are the round trips of one token.
func calls(r *Results) []Target {
	all := make([]Target, 0, 3*len(r.Counts))
	for _, c := range r.Counts {
		with := "limits off"
		if c.Limits {
			with = "limits on"
		}
		behind := c.writeBehind()
		statements := c.PerToken(func(s ServerCalls) float64 {
			return s.Statements["token_app"] + s.Statements["registry_app"] + s.Statements["credentials_app"]
		})
		statements = max(0, statements-behind/float64(max(c.Tokens, 1)))
		apart := ""
		if behind > 0 {
			apart = fmt.Sprintf(" (and the quota's write-behind, %.0f per second)", behind/c.Load.Seconds)
		}
		reads := c.PerToken(func(s ServerCalls) float64 { return s.RedisReads })
		published := c.PerToken(func(s ServerCalls) float64 { return s.Published })
		all = append(all,
			newTarget("Postgres statements per token, "+with, "0", fmt.Sprintf("%.4f", statements)+apart, statements <= negligible),
			newTarget("Redis round trips per token, "+with, "≤ 1", fmt.Sprintf("%.4f", reads), reads <= 1+negligible),
			newTarget("JetStream messages per token, "+with, "≤ 1", fmt.Sprintf("%.4f", published), published > 0 && published <= 1+negligible),
		)
	}
	return all
}

func memory(r *Results) []Target {
	var all []Target
	for _, name := range Services() {
		if m, found := r.UnderLoad[name]; found {
			all = append(all, newTarget(
				"memory of "+name+" under load", "≤ 150 MiB", fmt.Sprintf("%.0f MiB", mib(m.Peak)), m.Peak <= aimMemory,
			))
		}
	}
	if r.Soak == nil {
		return all
	}
	for _, name := range Services() {
		if growth, known := r.Soak.Growth(name); known {
			all = append(all, newTarget(
				fmt.Sprintf("memory of %s over %.0f s", name, r.Soak.Seconds*float64(len(r.Soak.RSS[name]))),
				"flat: ≤ +5 %", fmt.Sprintf("%+.1f %%", growth*100), growth <= aimFlat,
			))
		}
	}
	return all
}

// Services in the order in which they are shown.
func Services() []string { return []string{"registry", "token", "credentials", "audit"} }

func percent(share float64) string { return fmt.Sprintf("%.1f %%", share*100) }
