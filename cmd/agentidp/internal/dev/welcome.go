package dev

import (
	"fmt"
	"strings"
)

// welcome is what the console shows when everything runs. The three commands use nothing but curl and
// sed, may be pasted again at any time, and stand on lines of their own.
func welcome(baseURL string, op operator, dir *dataDir, seconds float64, viaProxy bool) string {
	call := "curl -sS"
	if viaProxy {
		call += " --noproxy 127.0.0.1"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "\nAgentIdP is ready after %.1f s.\n\n", seconds)
	fmt.Fprintf(&text, "  base URL       %s\n", baseURL)
	fmt.Fprintf(&text, "  client_id      %s\n", op.clientID)
	fmt.Fprintf(&text, "  client_secret  %s\n", op.secret.Reveal())
	fmt.Fprintf(&text, "  for scripts    %s, %s\n", dir.join(operatorFileName), dir.join(servicesFileName))
	fmt.Fprintf(&text, "  audit log key  %s\n", dir.join(logKeyFileName))
	fmt.Fprintf(&text, "  logs           %s\n", dir.join("logs"))
	text.WriteString("\nPaste these three lines into another shell, one after the other: get a token, register an agent, list the audit trail.\n\n")
	fmt.Fprintf(&text, `TOKEN=$(%s %s/api/v1/token -d grant_type=client_credentials -d client_id=%s -d client_secret=%s `+
		`--data-urlencode 'scope=agents:read agents:write tokens:read audit:read agents:admin' `+
		`| sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p')`+"\n",
		call, baseURL, op.clientID, op.secret.Reveal())
	fmt.Fprintf(&text, `%s %s/api/v1/agents -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' `+
		`-d '{"email":"screener-'$(date +%%s%%N)'@example.com","agentType":"screener","version":"1.0.0",`+
		`"capabilities":["resume:read"],"allowedScopes":["agents:read"],"owner":"talent-team","deploymentEnv":"development"}' -w '\n'`+"\n",
		call, baseURL)
	fmt.Fprintf(&text, `%s %s/api/v1/audit -H "Authorization: Bearer $TOKEN" -w '\n'`+"\n", call, baseURL)
	kept := "the data stays in " + dir.path
	if dir.ephemeral {
		kept = "the data goes with it"
	}
	fmt.Fprintf(&text, "\nCtrl-C stops everything; %s.\n", kept)
	return text.String()
}

// proxied says whether the shell's environment would send the printed commands to a proxy.
func proxied(environ func(string) (string, bool)) bool {
	for _, name := range []string{"http_proxy", "all_proxy", "ALL_PROXY"} {
		if value, set := environ(name); set && value != "" {
			return true
		}
	}
	return false
}
