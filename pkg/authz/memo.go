package authz

import (
	"strconv"
	"strings"

	"github.com/maypok86/otter/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

const (
	// memoCapacity bounds how many decisions of a policy are remembered.
	memoCapacity = 10_000
	// memoMaxKey is the longest input whose decision is remembered, in bytes.
	memoMaxKey = 1024
)

// policy is a compiled policy with the decisions it has made. They are only valid for this very policy, so they live and
// end with it.
type policy struct {
	query rego.PreparedEvalQuery
	// decided is nil for a policy whose decisions depend on more than their input.
	decided *otter.Cache[string, Decision]
}

func newPolicy(query rego.PreparedEvalQuery, pure bool) *policy {
	p := &policy{query: query}
	if pure {
		p.decided = otter.Must(&otter.Options[string, Decision]{MaximumSize: memoCapacity})
	}
	return p
}

// pure tells whether equal inputs always get equal decisions: no module asks for the time, the network, random numbers or
// anything else that OPA calls nondeterministic.
func pure(compiler *ast.Compiler) bool {
	deterministic := true
	for _, module := range compiler.Modules {
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			name := ref.String()
			builtin, ok := ast.BuiltinMap[name]
			// Whether a certificate is good depends on the time, which OPA does not say of these.
			if ok && (builtin.IsNondeterministic() || strings.HasPrefix(name, "crypto.x509.parse_and_verify")) {
				deterministic = false
			}
			return !deterministic
		})
	}
	return deterministic
}

// memoKey spells an input so that two inputs have the same key only if they are the same to the policy.
func (in Input) memoKey() string {
	key := make([]byte, 0, 512)
	key = appendText(key, in.Method, in.Path, in.Subject, in.Owner, in.Authentication)
	key = appendList(key, in.Scopes)
	if r := in.Resource; r != nil {
		key = appendText(key, r.AgentID, r.Owner, r.RegisteredBy)
		switch {
		case r.Exists == nil:
			key = append(key, '?')
		case *r.Exists:
			key = append(key, '+')
		default:
			key = append(key, '-')
		}
		for _, scopes := range [][]string{r.MayRequest, r.AllowedScopes} {
			if scopes == nil {
				key = append(key, '?')
			} else {
				key = appendList(key, scopes)
			}
		}
	}
	return string(key)
}

func appendList(key []byte, values []string) []byte {
	key = strconv.AppendInt(key, int64(len(values)), 10)
	return appendText(append(key, ';'), values...)
}

func appendText(key []byte, values ...string) []byte {
	for _, value := range values {
		key = strconv.AppendInt(key, int64(len(value)), 10)
		key = append(key, ':')
		key = append(key, value...)
	}
	return key
}
