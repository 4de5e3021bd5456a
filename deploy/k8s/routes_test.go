package k8s

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// door says which service a path leads to, "" for none.
type door func(path string) string

// routes are the public paths of the services' OpenAPI documents, which tests hold against the routers, with a value in the place
// of each parameter, and who answers them.
func routes(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, service := range services() {
		text, err := os.ReadFile("../../services/" + service + "/api/openapi.yaml")
		require.NoError(t, err)
		var document struct{ Paths map[string]any }
		require.NoError(t, yaml.Unmarshal(text, &document))
		require.NotEmpty(t, document.Paths)
		for path := range document.Paths {
			if strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/oauth2/") || strings.HasPrefix(path, "/.well-known/") {
				all[path] = service
			}
		}
	}
	require.Equal(t, "token", all["/oauth2/authorize"])
	parameters := regexp.MustCompile(`\{[a-zA-Z]+\}`)
	concrete := map[string]string{}
	for path, service := range all {
		concrete[parameters.ReplaceAllString(path, "0190a7c0-0000-4000-8000-00000000000a")] = service
	}
	// The number of a tile is one to three segments, and may have one more for a partial tile.
	for _, index := range []string{"067", "x001/067", "x001/x234/067", "x001/x234/067.p/8", "067.p/8"} {
		concrete["/api/v1/audit/tile/0/"+index] = "audit"
		concrete["/api/v1/audit/tile/entries/"+index] = "audit"
	}
	return concrete
}

// closed are paths that no door may lead anywhere with.
func closed() []string {
	return []string{
		"/", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/debug/pprof/", "/internal/v1/jwks", "/internal/v1/bootstrap",
		"/internal/v1/operator-credential", "/api/v1", "/api/v1/", "/api/v1/agent", "/api/v1/agents/", "/api/v1/agents/a/", "/api/v1/agents/a/b",
		"/api/v1/agents/a/keys/b", "/api/v1/agents/a/credentials/", "/api/v1/agents/a/credentials/b/c", "/api/v1/agents/a/credentials/b/rotate/c",
		"/api/v1/tokens", "/api/v1/token/", "/api/v1/token/other", "/api/v1/audits", "/api/v1/audit/", "/api/v1/audit/a/b", "/api/v1/audit/tile/0/1/2/3/4/5",
		"/api/v2/agents", "/oauth2/token", "/.well-known/other", "/.well-known/jwks_json", "/xwell-known/jwks.json",
	}
}

// doors are all that this directory can put in front of the services.
func doors(t *testing.T) map[string]door {
	t.Helper()
	list, err := all()
	require.NoError(t, err)
	found := map[string]door{}
	for _, v := range list {
		if routes := of[*gatewayv1.HTTPRoute](v); len(routes) > 0 {
			require.Len(t, routes, 1)
			found["HTTPRoute of "+v.name] = gateway(t, routes[0])
		}
		if ingresses := of[*networkingv1.Ingress](v); len(ingresses) > 0 {
			found["Ingress of "+v.name] = ingress(t, ingresses)
		}
	}
	found["the nginx of components/in-cluster-ingress"] = nginx(t, "components/in-cluster-ingress/nginx.conf")
	found["the nginx of docker-compose.yml"] = nginx(t, "../compose/nginx.conf")
	for _, kind := range []string{"HTTPRoute", "Ingress of production, ingress-traefik", "Ingress of production, ingress-nginx"} {
		require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(name string) bool { return strings.HasPrefix(name, kind) }), kind)
	}
	return found
}

// rule is one match of a path; two rules of one door must not match the same path, as doors differ in which of them they take.
type rule struct {
	matches func(path string) bool
	service string
}

func only(t *testing.T, rules []rule) door {
	t.Helper()
	require.NotEmpty(t, rules)
	return func(path string) string {
		var matching []string
		for _, r := range rules {
			if r.matches(path) {
				matching = append(matching, r.service)
			}
		}
		require.LessOrEqual(t, len(matching), 1, "%s leads to %v", path, matching)
		return strings.Join(matching, "")
	}
}

func equals(value string) func(string) bool { return func(path string) bool { return path == value } }

func gateway(t *testing.T, route *gatewayv1.HTTPRoute) door {
	t.Helper()
	require.LessOrEqual(t, len(route.Spec.Rules), 16, "the API takes no more")
	require.Len(t, route.Spec.ParentRefs, 1)
	parent := route.Spec.ParentRefs[0]
	require.NotNil(t, parent.Namespace, "a Gateway beside the services would have its proxies cut off by default-deny")
	require.NotEqual(t, route.Namespace, string(*parent.Namespace))
	require.Equal(t, gatewayv1.SectionName("https"), *parent.SectionName, "secrets come this way")
	var rules []rule
	for _, r := range route.Spec.Rules {
		require.Len(t, r.BackendRefs, 1)
		require.Equal(t, gatewayv1.PortNumber(8080), *r.BackendRefs[0].Port)
		require.Empty(t, r.Filters)
		require.LessOrEqual(t, len(r.Matches), 8)
		for _, match := range r.Matches {
			one := rule{service: string(r.BackendRefs[0].Name)}
			switch *match.Path.Type {
			case gatewayv1.PathMatchExact:
				one.matches = equals(*match.Path.Value)
			case gatewayv1.PathMatchRegularExpression:
				require.Regexp(t, `^\^.*\$$`, *match.Path.Value, "some gateways match anywhere")
				one.matches = regexp.MustCompile(*match.Path.Value).MatchString
			default:
				require.Fail(t, "a prefix would take what is another service's")
			}
			rules = append(rules, one)
		}
	}
	return only(t, rules)
}

func ingress(t *testing.T, ingresses []*networkingv1.Ingress) door {
	t.Helper()
	var rules []rule
	for _, one := range ingresses {
		require.Len(t, one.Spec.Rules, 1)
		require.Len(t, one.Spec.TLS, 1, "secrets come this way")
		require.Equal(t, []string{one.Spec.Rules[0].Host}, one.Spec.TLS[0].Hosts)
		if *one.Spec.IngressClassName == "traefik" {
			require.Equal(t, "websecure", one.Annotations["traefik.ingress.kubernetes.io/router.entrypoints"], one.Name)
			require.Equal(t, "true", one.Annotations["traefik.ingress.kubernetes.io/router.tls"], one.Name)
		}
		for _, path := range one.Spec.Rules[0].HTTP.Paths {
			require.Equal(t, "public", path.Backend.Service.Port.Name)
			r := rule{service: path.Backend.Service.Name}
			switch *path.PathType {
			case networkingv1.PathTypeExact:
				require.Equal(t, "traefik", *one.Spec.IngressClassName, "with use-regex, ingress-nginx knows no exact paths")
				r.matches = equals(path.Path)
			case networkingv1.PathTypeImplementationSpecific:
				pattern := path.Path
				require.Regexp(t, `^/.*\$$`, pattern, "the API server wants the first, the expression the last")
				if *one.Spec.IngressClassName == "nginx" {
					require.Equal(t, "true", one.Annotations["nginx.ingress.kubernetes.io/use-regex"])
					pattern = "(?i)^" + pattern
				} else {
					require.Equal(t, "PathRegexp", one.Annotations["traefik.ingress.kubernetes.io/router.pathmatcher"])
				}
				r.matches = regexp.MustCompile(pattern).MatchString
			default:
				require.Fail(t, "a prefix would take what is another service's")
			}
			rules = append(rules, r)
		}
	}
	return only(t, rules)
}

// nginx reads the locations of a configuration that are regular expressions and lead to a service.
func nginx(t *testing.T, file string) door {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var rules []rule
	locations := regexp.MustCompile(`location ~ "([^"]+)" \{\s+(?:set \$service ([a-z]+);\s+)?proxy_pass http://(\$service|[a-z]+):8080;`).FindAllStringSubmatch(string(text), -1)
	for _, m := range locations {
		service := m[3]
		if service == "$service" {
			service = m[2]
		}
		rules = append(rules, rule{service: service, matches: regexp.MustCompile(m[1]).MatchString})
	}
	require.Equal(t, strings.Count(string(text), "proxy_pass"), len(rules), "a location that this test does not understand")
	return only(t, rules)
}

func TestTheTwoNginxDifferOnlyInHowTheyFindServices(t *testing.T) {
	t.Parallel()
	finding := regexp.MustCompile(`(?m)^ *(# Docker's own name server.*|resolver .*|set \$service .*)\n`)
	target := regexp.MustCompile(`proxy_pass http://[^:]+:`) // which service, is told above
	rest := func(file string) string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		text = target.ReplaceAll(finding.ReplaceAll(text, nil), []byte("proxy_pass http://service:"))
		return regexp.MustCompile(`\n+`).ReplaceAllString(string(text), "\n")
	}
	require.Equal(t, rest("../compose/nginx.conf"), rest("components/in-cluster-ingress/nginx.conf"))
}

func TestWhatNginxLogsOfAPathIsNoSecret(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../compose/nginx.conf") // the other differs in nothing of this
	require.NoError(t, err)
	require.NotRegexp(t, `log_format[^;]*\$(request|uri|request_uri|args|query_string)\b`, string(text))
	found := regexp.MustCompile(`map \$uri \$shown \{\s+default +\$uri;\s+"~([^"]+)" +\[redacted\];`).FindSubmatch(text)
	require.NotNil(t, found)
	secret := regexp.MustCompile(string(found[1]))
	require.True(t, secret.MatchString("/api/v1/agents/x/credentials/sk_live_0123"))
	require.True(t, secret.MatchString("/api/v1/audit/eyJhbGciOiJSUzI1NiJ9.e30.x"))
	require.False(t, secret.MatchString("/api/v1/agents/01a2b3c4-0000-7000-8000-000000000000/credentials"))
}

func TestEveryDoorLeadsToTheServiceThatAnswers(t *testing.T) {
	t.Parallel()
	for name, lead := range doors(t) {
		for path, service := range routes(t) {
			require.Equal(t, service, lead(path), "%s: %s", name, path)
		}
		for _, path := range closed() {
			require.Empty(t, lead(path), "%s: %s", name, path)
		}
	}
}
