package ingress

import "strings"

// Service is the name of a service behind the ingress.
type Service string

// The services that have public routes.
const (
	Registry    Service = "registry"
	Credentials Service = "credentials"
	Token       Service = "token"
	Audit       Service = "audit"
)

// Services lists every service the ingress routes to.
func Services() []Service {
	return []Service{Registry, Credentials, Token, Audit}
}

// anySegment stands in a pattern for one path segment that is not empty.
const anySegment = "*"

// route says which service answers a path. Methods are the service's own affair, so that a wrong one
// gets its 405 with the right Allow header.
type route struct {
	segments []string
	service  Service
}

// routingTable is the whole public surface; a path that is not in it does not leave the ingress. issuerPath is the path of
// the issuer's URL, "" for most: the endpoints of OAuth are below it as well, and its metadata has it at the end (RFC 8414 §3).
func routingTable(issuerPath string) []route {
	table := []struct {
		pattern string
		service Service
	}{
		{"/api/v1/agents", Registry},
		{"/api/v1/agents/*", Registry},
		{"/api/v1/agents/*/keys", Registry},
		{"/api/v1/agents/*/credentials", Credentials},
		{"/api/v1/agents/*/credentials/*", Credentials},
		{"/api/v1/agents/*/credentials/*/rotate", Credentials},
		{"/api/v1/token", Token},
		{"/api/v1/token/introspect", Token},
		{"/api/v1/token/revoke", Token},
		{"/oauth2/authorize", Token},
		{"/.well-known/oauth-authorization-server", Token},
		{"/.well-known/openid-configuration", Token},
		{"/.well-known/jwks.json", Token},
		{"/api/v1/audit", Audit},
		{"/api/v1/audit/checkpoint", Audit},
		{"/api/v1/audit/consistency", Audit},
		{"/api/v1/audit/*", Audit},
		{"/api/v1/audit/*/proof", Audit},
		// The number of a tile takes up to three segments below a thousand million, and a partial tile one more.
		{"/api/v1/audit/tile/*/*", Audit},
		{"/api/v1/audit/tile/*/*/*", Audit},
		{"/api/v1/audit/tile/*/*/*/*", Audit},
		{"/api/v1/audit/tile/*/*/*/*/*", Audit},
	}
	routes := make([]route, 0, len(table))
	for _, entry := range table {
		routes = append(routes, route{segments: strings.Split(entry.pattern, "/"), service: entry.service})
		if issuerPath == "" || entry.service != Token {
			continue
		}
		routes = append(routes, route{segments: strings.Split(issuerPath+entry.pattern, "/"), service: entry.service})
		if strings.HasPrefix(entry.pattern, "/.well-known/") {
			routes = append(routes, route{segments: strings.Split(entry.pattern+issuerPath, "/"), service: entry.service})
		}
	}
	return routes
}

// match finds the service for an escaped path. It compares the escaped form, so that an encoded slash
// stays inside its segment and cannot reach another service's route.
func (in *Ingress) match(escapedPath string) (Service, bool) {
	segments := strings.Split(escapedPath, "/")
	for _, candidate := range in.routes {
		if candidate.matches(segments) {
			return candidate.service, true
		}
	}
	return "", false
}

func (r route) matches(segments []string) bool {
	if len(segments) != len(r.segments) {
		return false
	}
	for i, want := range r.segments {
		switch {
		case want == anySegment && segments[i] == "":
			return false
		case want != anySegment && segments[i] != want:
			return false
		}
	}
	return true
}
