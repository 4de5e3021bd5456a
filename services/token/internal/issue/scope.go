package issue

import (
	"slices"
	"strings"

	"github.com/sentryagent/agentidp/pkg/authz"
)

const (
	defaultScope = authz.ScopeAgentsRead
	// shownScopeBytes bounds what an error repeats of a scope.
	shownScopeBytes = 64
)

// Scopes are what the agent may ask for: its allowed system scopes (agents:admin
// implies all of them), then its capabilities. A capability is asked for by
// exactly its own string: resource:* is a scope of that name and covers no
// resource:action, as it is for the resource's own API to say what it means.
func (a Agent) Scopes() []string {
	scopes := authz.Effective(slices.DeleteFunc(slices.Clone(a.AllowedScopes), func(scope string) bool {
		return !authz.IsSystemScope(scope)
	}))
	for _, capability := range a.Capabilities {
		// The registry reserves the resources of system scopes; a capability must
		// never become one, whatever the registry let in.
		if !authz.IsSystemScope(capability) && !slices.Contains(scopes, capability) {
			scopes = append(scopes, capability)
		}
	}
	return scopes
}

// checkScope refuses what no agent has: it is the form of RFC 6749 §3.3.
func checkScope(requested string) error {
	if requested == "" {
		return nil
	}
	for scope := range strings.SplitSeq(requested, " ") {
		if !validScopeToken(scope) {
			return RefuseField(InvalidScope, "scope", "The scope is malformed.")
		}
	}
	return nil
}

// resolveScope decides what a token gets: what was asked for, in that order and
// without repeats, or agents:read when nothing was.
func resolveScope(agent Agent, requested string) ([]string, error) {
	allowed := agent.Scopes()
	if requested == "" {
		if slices.Contains(allowed, defaultScope) {
			return []string{defaultScope}, nil
		}
		return nil, notAllowed(InvalidScope, "scope",
			"No scope was requested, and this client may not have "+defaultScope+". "+mayRequest(allowed))
	}
	var granted []string
	for scope := range strings.SplitSeq(requested, " ") {
		switch {
		case !slices.Contains(allowed, scope):
			if len(scope) > shownScopeBytes {
				scope = scope[:shownScopeBytes] + "..."
			}
			return nil, notAllowed(InvalidScope, "scope", "This client may not request the scope '"+scope+"'.")
		case !slices.Contains(granted, scope):
			granted = append(granted, scope)
		}
	}
	return granted, nil
}

func mayRequest(allowed []string) string {
	if len(allowed) == 0 {
		return "It may request no scope at all."
	}
	return "It may request: " + strings.Join(allowed, " ") + "."
}

// validScopeToken is the grammar of RFC 6749 §3.3: %x21 / %x23-5B / %x5D-7E, at least one.
func validScopeToken(scope string) bool {
	for i := range len(scope) {
		c := scope[i]
		if c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return scope != ""
}
