package httpapi

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// authentication is how a request says who sends it.
type authentication struct {
	// scheme of the Authorization header in lower case, "" if there is none.
	scheme string
	// value is what follows the scheme.
	value string
}

// readAuthorization splits the Authorization header (RFC 9110 §11.6.2). Several
// headers are several methods of authentication.
func readAuthorization(header http.Header) (authentication, error) {
	values := header.Values("Authorization")
	switch len(values) {
	case 0:
		return authentication{}, nil
	case 1:
		// A blank header says nothing, and counts as none.
		scheme, value, _ := strings.Cut(strings.Trim(values[0], " \t"), " ")
		return authentication{scheme: strings.ToLower(scheme), value: strings.Trim(value, " ")}, nil
	default:
		return authentication{}, issue.Refuse(issue.InvalidRequest, "The Authorization header is repeated.")
	}
}

// basic tells whether the client used, or should have used, HTTP Basic.
func (a authentication) basic() bool { return a.scheme != "" && a.scheme != "bearer" }

// authenticates tells whether the form authenticates the client, well or not.
func (f form) authenticates() bool { return f.get("client_secret") != "" || f.asserts() }

// asserts tells whether the form has a client assertion, or the type of one (RFC 7521 §4.2).
func (f form) asserts() bool {
	return f.get("client_assertion") != "" || f.get("client_assertion_type") != ""
}

// checkMethods refuses a request that authenticates in more than one way (RFC 6749 §2.3).
func checkMethods(authorization bool, body form) error {
	if (authorization && body.authenticates()) || (body.get("client_secret") != "" && body.asserts()) {
		return issue.Refuse(issue.InvalidRequest, "The client uses more than one method of authentication.")
	}
	return nil
}

// clientCredentials reads client authentication, by one of client_secret_basic,
// client_secret_post (RFC 6749 §2.3.1) and private_key_jwt (RFC 7523 §2.2).
func clientCredentials(auth authentication, body form) (issue.Credentials, error) {
	if err := checkMethods(auth.scheme != "", body); err != nil {
		return issue.Credentials{}, err
	}
	switch {
	case body.asserts():
		return assertionCredentials(body)
	case auth.scheme == "":
		return postCredentials(body)
	}
	credentials := basicCredentials(auth)
	// A client that repeats its id in the body does no harm; another id is another client.
	if id := body.get("client_id"); id != "" && credentials.ClientID != "" && id != credentials.ClientID {
		return issue.Credentials{}, issue.RefuseField(issue.InvalidRequest, "client_id",
			"The parameter client_id differs from the client in the Authorization header.")
	}
	return credentials, nil
}

// assertionCredentials reads a client assertion. A type of assertion that is not known
// is a method of authentication that is not (RFC 6749 §5.2: invalid_client).
func assertionCredentials(body form) (issue.Credentials, error) {
	for _, name := range []string{"client_assertion", "client_assertion_type"} {
		if body.get(name) == "" {
			return issue.Credentials{}, errMissing(name)
		}
	}
	if body.get("client_assertion_type") != assertion.Type {
		return issue.Credentials{}, issue.Refuse(issue.InvalidClient, "The only client_assertion_type is "+assertion.Type+".")
	}
	return issue.Credentials{ClientID: body.get("client_id"), Assertion: config.Secret(body.get("client_assertion"))}, nil
}

func errMissing(name string) error {
	return issue.RefuseField(issue.InvalidRequest, name, "The parameter "+name+" is missing.")
}

func postCredentials(body form) (issue.Credentials, error) {
	for _, name := range []string{"client_id", "client_secret"} {
		if body.get(name) == "" {
			return issue.Credentials{}, errMissing(name)
		}
	}
	return issue.Credentials{ClientID: body.get("client_id"), Secret: config.Secret(body.get("client_secret"))}, nil
}

// basicCredentials reads HTTP Basic (RFC 7617). Id and secret are form-encoded
// inside of it, which sets OAuth apart from other uses of Basic. What cannot be read
// is empty, and no client's secret is: it fails as any attempt does, counted,
// recorded and no faster.
func basicCredentials(auth authentication) issue.Credentials {
	raw, err := base64.StdEncoding.DecodeString(auth.value)
	if err != nil || auth.scheme != "basic" {
		return issue.Credentials{}
	}
	rawID, rawSecret, _ := strings.Cut(string(raw), ":")
	id, err := formDecode(rawID)
	if err != nil || id == "" {
		return issue.Credentials{}
	}
	secret, err := formDecode(rawSecret)
	if err != nil {
		return issue.Credentials{ClientID: id}
	}
	return issue.Credentials{ClientID: id, Secret: config.Secret(secret)}
}
