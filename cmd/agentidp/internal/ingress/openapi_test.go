package ingress

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	auditapi "github.com/sentryagent/agentidp/services/audit/api"
	credentialsapi "github.com/sentryagent/agentidp/services/credentials/api"
	registryapi "github.com/sentryagent/agentidp/services/registry/api"
	tokenapi "github.com/sentryagent/agentidp/services/token/api"
)

// The manifests in deploy/ are held against the same documents.
func TestEveryPublicRouteOfTheOpenAPIDocumentsLeadsToItsService(t *testing.T) {
	t.Parallel()
	in := &Ingress{routes: routingTable("")}
	paths := regexp.MustCompile(`(?m)^  (/[^\s:]*):$`)
	parameters := regexp.MustCompile(`\{[a-zA-Z]+\}`)
	for service, document := range map[Service][]byte{
		Registry: registryapi.Spec, Credentials: credentialsapi.Spec, Token: tokenapi.Spec, Audit: auditapi.Spec,
	} {
		public := 0
		for _, match := range paths.FindAllStringSubmatch(string(document), -1) {
			path := parameters.ReplaceAllString(match[1], "x")
			to, found := in.match(path)
			if strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/oauth2/") || strings.HasPrefix(path, "/.well-known/") {
				require.True(t, found, path)
				require.Equal(t, service, to, path)
				public++
			} else {
				require.False(t, found, path)
			}
		}
		require.GreaterOrEqual(t, public, 3, "%s: the document has another form now", service)
	}
}
