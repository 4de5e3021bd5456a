package authz

import "slices"

// The system scopes. ScopeAgentsAdmin is for operators and implies all others.
const (
	ScopeAgentsRead  = "agents:read"
	ScopeAgentsWrite = "agents:write"
	ScopeTokensRead  = "tokens:read"
	ScopeAuditRead   = "audit:read"
	ScopeAgentsAdmin = "agents:admin"
)

// SystemScopes gives all system scopes, in the order of their declaration.
func SystemScopes() []string {
	return []string{ScopeAgentsRead, ScopeAgentsWrite, ScopeTokensRead, ScopeAuditRead, ScopeAgentsAdmin}
}

// IsSystemScope tells whether scope is one of SystemScopes.
func IsSystemScope(scope string) bool { return slices.Contains(SystemScopes(), scope) }

// Effective gives the scopes a token has in effect: its own, and with agents:admin every system scope, without repeats.
func Effective(scopes []string) []string {
	effective := make([]string, 0, len(scopes)+len(SystemScopes()))
	add := func(list []string) {
		for _, s := range list {
			if !slices.Contains(effective, s) {
				effective = append(effective, s)
			}
		}
	}
	add(scopes)
	if slices.Contains(scopes, ScopeAgentsAdmin) {
		add(SystemScopes())
	}
	return effective
}

// ReservedResources gives the resources that no capability may name, because the system scopes are about them.
func ReservedResources() []string { return []string{"agents", "tokens", "audit"} }
