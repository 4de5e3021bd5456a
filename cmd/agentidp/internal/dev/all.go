package dev

import (
	"github.com/sentryagent/agentidp/services/audit"
	"github.com/sentryagent/agentidp/services/credentials"
	"github.com/sentryagent/agentidp/services/registry"
	"github.com/sentryagent/agentidp/services/token"
)

// allPrograms are the four services.
func allPrograms() []program {
	return []program{
		define("registry", registry.LoadConfig, registry.New),
		define("credentials", credentials.LoadConfig, credentials.New),
		define("token", token.LoadConfig, token.New),
		define("audit", audit.LoadConfig, audit.New),
	}
}
