package agent_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

func ref[T any](value T) *T { return &value }

// given are attributes without faults.
func given() agent.Attributes {
	return agent.Attributes{
		Email:         ref("screener-01@agents.example.com"),
		Type:          ref("screener"),
		Version:       ref("1.4.0"),
		Capabilities:  ref([]string{"resume:read", "calendar:*"}),
		Owner:         ref("talent-team"),
		DeploymentEnv: ref("production"),
		AllowedScopes: ref([]string{"agents:read"}),
	}
}

// reasonFor is what the faults say of a field.
func reasonFor(t *testing.T, faults []apperr.FieldError, field string) string {
	t.Helper()
	require.Len(t, faults, 1)
	require.Equal(t, field, faults[0].Field)
	return faults[0].Reason
}

func TestARegistrationThatKeepsTheRulesHasNoFaults(t *testing.T) {
	t.Parallel()
	require.Empty(t, given().FaultsOfRegistration())

	withoutScopes := given()
	withoutScopes.AllowedScopes = nil
	require.Empty(t, withoutScopes.FaultsOfRegistration())
}

func TestEveryMissingFieldOfARegistrationIsNamed(t *testing.T) {
	t.Parallel()
	require.Equal(t, []apperr.FieldError{
		{Field: "email", Reason: "is required"},
		{Field: "agentType", Reason: "is required"},
		{Field: "version", Reason: "is required"},
		{Field: "capabilities", Reason: "is required"},
		{Field: "owner", Reason: "is required"},
		{Field: "deploymentEnv", Reason: "is required"},
	}, agent.Attributes{}.FaultsOfRegistration())
}

func TestEveryBrokenRuleIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	bad := agent.Attributes{
		Email: ref("nobody"), Type: ref("Screener"), Version: ref("1"), Capabilities: ref([]string{}),
		Owner: ref(""), DeploymentEnv: ref("prod"), AllowedScopes: ref([]string{"everything"}),
		AllowedResources: ref([]string{"everywhere"}),
	}
	var fields []string
	for _, fault := range bad.FaultsOfRegistration() {
		fields = append(fields, fault.Field)
		require.NotEmpty(t, fault.Reason)
	}
	require.Equal(t, []string{
		"email", "agentType", "version", "capabilities", "owner", "deploymentEnv", "allowedScopes", "allowedResources",
	}, fields)
}

func TestEmail(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("l", 64) + "@" + strings.Repeat(strings.Repeat("d", 61)+".", 3) + "eu"
	require.LessOrEqual(t, len(longest), agent.MaxEmail)
	tests := map[string]struct {
		email string
		valid bool
	}{
		"a plain address is valid":                {"a@example.com", true},
		"tags and dots in the local part":         {"first.last+tag@sub.example.co.uk", true},
		"every special character of RFC 5322":     {"!#$%&'*+-/=?^_`{|}~@example.com", true},
		"a host without a dot":                    {"agent@localhost", true},
		"a punycode host":                         {"agent@xn--bcher-kva.example", true},
		"upper case":                              {"Agent@Example.COM", true},
		"a long address within the limits":        {longest, true},
		"empty":                                   {"", false},
		"no at":                                   {"agent.example.com", false},
		"no local part":                           {"@example.com", false},
		"no host":                                 {"agent@", false},
		"two ats":                                 {"a@b@example.com", false},
		"a space inside":                          {"a b@example.com", false},
		"a space around":                          {" a@example.com", false},
		"a display name":                          {"Agent <a@example.com>", false},
		"angle brackets":                          {"<a@example.com>", false},
		"a comment":                               {"a(comment)@example.com", false},
		"a quoted local part":                     {`"a"@example.com`, false},
		"two dots in a row":                       {"a..b@example.com", false},
		"a dot at the end of the local part":      {"a.@example.com", false},
		"two dots in a row in the host":           {"a@example..com", false},
		"a dot at the end of the host":            {"a@example.com.", false},
		"a label that begins with a hyphen":       {"a@-example.com", false},
		"a label that ends with a hyphen":         {"a@example-.com", false},
		"an underscore in the host":               {"a@exa_mple.com", false},
		"an address literal":                      {"a@[127.0.0.1]", false},
		"two addresses":                           {"a@example.com,b@example.com", false},
		"a line break":                            {"a@example.com\r\nBcc: b@example.com", false},
		"NUL":                                     {"a\x00@example.com", false},
		"not ASCII":                               {"ä@example.com", false},
		"invalid UTF-8":                           {"a\xff@example.com", false},
		"255 characters":                          {"a@" + strings.Repeat("d.", 126) + "c", false},
		"a local part of 65 characters":           {strings.Repeat("l", 65) + "@example.com", false},
		"a label of 64 characters":                {"a@" + strings.Repeat("d", 64) + ".com", false},
		"SQL":                                     {"'; DROP TABLE agents; --@example.com", false},
		"SQL that happens to be a valid address ": {"'or'1'='1@example.com", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := given()
			a.Email = &tt.email
			if tt.valid {
				require.Empty(t, a.FaultsOfRegistration())
				return
			}
			require.NotEmpty(t, reasonFor(t, a.FaultsOfRegistration(), "email"))
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	// The examples that semver.org gives with its regular expression, in part.
	valid := []string{
		"0.0.4", "1.2.3", "10.20.30", "1.1.2-prerelease+meta", "1.1.2+meta", "1.0.0-alpha", "1.0.0-alpha.beta.1",
		"1.0.0-alpha0.valid", "1.0.0-alpha.0valid", "1.0.0-rc.1+build.1", "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
		"1.0.0+0.build.1-rc.10000aaa-kk-0.1", "99999999999999999999999.999999999999999999.99999999999999999",
	}
	invalid := []string{
		"", "1", "1.2", "1.2.3-0123", "1.2.3-0123.0123", "1.1.2+.123", "+invalid", "-invalid", "alpha", "1.0.0-alpha_beta",
		"1.0.0-alpha..1", "01.1.1", "1.01.1", "1.1.01", "1.2.3.DEV", "1.2-SNAPSHOT", "v1.2.3", "1.2.3 ", " 1.2.3", "1.2.3\n",
		"1.0.0-\u0661", "\u0661.0.0", "1.0.0+\x00", "1.0.0-" + strings.Repeat("a", agent.MaxVersion), "1.0.0'--",
	}
	for _, version := range valid {
		a := agent.Attributes{Version: &version}
		require.Empty(t, a.FaultsOfChange(), version)
	}
	for _, version := range invalid {
		a := agent.Attributes{Version: &version}
		require.NotEmpty(t, reasonFor(t, a.FaultsOfChange(), "version"), version)
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	many := func(n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("resource-%d:read", i))
		}
		return list
	}
	tests := map[string]struct {
		capabilities []string
		reason       string
	}{
		"one":                                  {[]string{"resume:read"}, ""},
		"any action of a resource":             {[]string{"resume:*"}, ""},
		"sixty-four":                           {many(64), ""},
		"sixty-four characters":                {[]string{"r:" + strings.Repeat("a", 62)}, ""},
		"a resource that begins like reserved": {[]string{"agents-of-change:read", "token:read", "audits:read"}, ""},
		"hyphens and digits":                   {[]string{"a-1:b-2"}, ""},
		"none":                                 {[]string{}, "must have 1 to 64 items"},
		"sixty-five":                           {many(65), "must have 1 to 64 items"},
		"sixty-five characters":                {[]string{"r:" + strings.Repeat("a", 63)}, "item 0 must be resource:action"},
		"the same twice":                       {[]string{"a:b", "c:d", "a:b"}, "item 2 repeats an earlier one"},
		"a reserved resource: agents":          {[]string{"a:b", "agents:read"}, `item 1 names the reserved resource "agents"`},
		"a reserved resource: tokens":          {[]string{"tokens:*"}, `item 0 names the reserved resource "tokens"`},
		"a reserved resource: audit":           {[]string{"audit:x"}, `item 0 names the reserved resource "audit"`},
		"upper case":                           {[]string{"Resume:read"}, "item 0 must be"},
		"no action":                            {[]string{"resume:"}, "item 0 must be"},
		"no resource":                          {[]string{":read"}, "item 0 must be"},
		"no colon":                             {[]string{"resume"}, "item 0 must be"},
		"two colons":                           {[]string{"a:b:c"}, "item 0 must be"},
		"any resource":                         {[]string{"*:read"}, "item 0 must be"},
		"a part of an action":                  {[]string{"a:b*"}, "item 0 must be"},
		"a digit first":                        {[]string{"1a:b"}, "item 0 must be"},
		"a space":                              {[]string{"a: b"}, "item 0 must be"},
		"a line break at the end":              {[]string{"a:b\n"}, "item 0 must be"},
		"NUL":                                  {[]string{"a:b\x00"}, "item 0 must be"},
		"empty":                                {[]string{""}, "item 0 must be"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := agent.Attributes{Capabilities: &tt.capabilities}.FaultsOfChange()
			if tt.reason == "" {
				require.Empty(t, faults)
				return
			}
			require.Contains(t, reasonFor(t, faults, "capabilities"), tt.reason)
		})
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"t", "Team Ä, 日本", strings.Repeat("ü", 128), "Robert'); DROP TABLE agents;--"} {
		require.Empty(t, agent.Attributes{Owner: &owner}.FaultsOfChange(), owner)
	}
	for _, owner := range []string{"", "   ", strings.Repeat("ü", 129), "a\x00b", "a\nb", "a\xffb", "\u0085"} {
		faults := agent.Attributes{Owner: &owner}.FaultsOfChange()
		require.NotEmpty(t, reasonFor(t, faults, "owner"), owner)
	}
}

func TestEnumerations(t *testing.T) {
	t.Parallel()
	for _, value := range agent.Types() {
		require.Empty(t, agent.Attributes{Type: &value}.FaultsOfChange())
	}
	for _, value := range agent.Environments() {
		require.Empty(t, agent.Attributes{DeploymentEnv: &value}.FaultsOfChange())
	}
	for _, value := range []string{"", "CUSTOM", "custom ", "other", "custom\x00"} {
		require.NotEmpty(t, reasonFor(t, agent.Attributes{Type: &value}.FaultsOfChange(), "agentType"))
		require.NotEmpty(t, reasonFor(t, agent.Attributes{DeploymentEnv: &value}.FaultsOfChange(), "deploymentEnv"))
	}
}

func TestAllowedScopes(t *testing.T) {
	t.Parallel()
	for _, scopes := range [][]string{{}, {"agents:admin"}, {"audit:read", "agents:read", "tokens:read", "agents:write", "agents:admin"}} {
		require.Empty(t, agent.Attributes{AllowedScopes: &scopes}.FaultsOfChange())
	}
	for _, scopes := range [][]string{{"resume:read"}, {""}, {"agents:read", "agents:read"}, {"agents:read agents:write"}, {"AGENTS:READ"}} {
		faults := agent.Attributes{AllowedScopes: &scopes}.FaultsOfChange()
		require.NotEmpty(t, reasonFor(t, faults, "allowedScopes"))
	}
}

func TestAllowedResources(t *testing.T) {
	t.Parallel()
	many := func(n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("https://api-%d.example.com/", i))
		}
		return list
	}
	tests := map[string]struct {
		resources []string
		reason    string
	}{
		"none":                            {[]string{}, ""},
		"an API":                          {[]string{"https://api.example.com/"}, ""},
		"without a path":                  {[]string{"https://api.example.com"}, ""},
		"with path, query and port":       {[]string{"https://api.example.com:8443/v1/?tenant=7"}, ""},
		"with percent-encoding":           {[]string{"https://api.example.com/a%20b"}, ""},
		"http":                            {[]string{"http://localhost:8080/"}, ""},
		"an address":                      {[]string{"https://[2001:db8::1]/"}, ""},
		"a URN":                           {[]string{"urn:example:calendar"}, ""},
		"a scheme of one's own":           {[]string{"api://0190a7c0"}, ""},
		"two that differ in a slash":      {[]string{"https://a.example", "https://a.example/"}, ""},
		"sixteen":                         {many(16), ""},
		"256 characters":                  {[]string{"urn:" + strings.Repeat("a", 252)}, ""},
		"seventeen":                       {many(17), "must have at most 16 items"},
		"257 characters":                  {[]string{"urn:" + strings.Repeat("a", 253)}, "item 0 must be at most 256 characters"},
		"the same twice":                  {[]string{"urn:a:a", "urn:b:b", "urn:a:a"}, "item 2 repeats an earlier one"},
		"a fragment":                      {[]string{"urn:a:a", "https://api.example.com/#a"}, "item 1 must have no fragment"},
		"an empty fragment":               {[]string{"https://api.example.com/#"}, "item 0 must have no fragment"},
		"a user":                          {[]string{"https://user@api.example.com/"}, "item 0 must have no user name"},
		"a user and a password":           {[]string{"https://user:secret@api.example.com/"}, "item 0 must have no user name"},
		"empty":                           {[]string{""}, "item 0 must be an absolute URI"},
		"a path":                          {[]string{"/v1"}, "item 0 must be an absolute URI"},
		"a host only":                     {[]string{"api.example.com"}, "item 0 must be an absolute URI"},
		"a scheme only":                   {[]string{"https:"}, "item 0 must be an absolute URI"},
		"https without a host":            {[]string{"https:///v1"}, "item 0 must be an absolute URI"},
		"https with a port only":          {[]string{"https://:443/"}, "item 0 must be an absolute URI"},
		"https without slashes":           {[]string{"https:api.example.com"}, "item 0 must be an absolute URI"},
		"a scheme that begins with digit": {[]string{"1a:b"}, "item 0 must be an absolute URI"},
		"relative to a scheme":            {[]string{"//api.example.com/"}, "item 0 must be an absolute URI"},
		"a space":                         {[]string{"https://api.example.com/a b"}, "item 0 must be an absolute URI"},
		"a space around":                  {[]string{" https://api.example.com/"}, "item 0 must be an absolute URI"},
		"a line break at the end":         {[]string{"https://api.example.com/\n"}, "item 0 must be an absolute URI"},
		"NUL":                             {[]string{"https://api.example.com/\x00"}, "item 0 must be an absolute URI"},
		"beyond ASCII":                    {[]string{"https://bücher.example/"}, "item 0 must be an absolute URI"},
		"a backslash":                     {[]string{`https:\\api.example.com`}, "item 0 must be an absolute URI"},
		"a quote":                         {[]string{`https://api.example.com/"`}, "item 0 must be an absolute URI"},
		"a broken escape":                 {[]string{"urn:a:%zz"}, "item 0 must be an absolute URI"},
		"a broken port":                   {[]string{"https://api.example.com:port/"}, "item 0 must be an absolute URI"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := agent.Attributes{AllowedResources: &tt.resources}.FaultsOfChange()
			if tt.reason == "" {
				require.Empty(t, faults)
				return
			}
			require.Contains(t, reasonFor(t, faults, "allowedResources"), tt.reason)
		})
	}
}

func TestAChangeOfStatusIsActiveOrSuspendedOnly(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"active", "suspended"} {
		require.Empty(t, agent.Attributes{Status: &status}.FaultsOfChange())
	}
	for _, status := range []string{"decommissioned", "", "Active"} {
		require.Equal(t, "must be one of active, suspended",
			reasonFor(t, agent.Attributes{Status: &status}.FaultsOfChange(), "status"))
	}
}

func TestAnOperatorNeedsAnAddressAndAnOwner(t *testing.T) {
	t.Parallel()
	require.Empty(t, agent.Attributes{Email: ref("o@example.com"), Owner: ref("platform")}.FaultsOfOperator())
	require.Equal(t, []apperr.FieldError{
		{Field: "email", Reason: "is required"},
		{Field: "owner", Reason: "is required"},
		{Field: "deploymentEnv", Reason: "must be one of development, staging, production"},
	}, agent.Attributes{DeploymentEnv: ref("moon")}.FaultsOfOperator())
}
