package jwk

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// privateParameters are those of RFC 7518 §6.2.2, §6.3.2 and §6.4 and RFC 8037 §2 that hold or derive from a secret. They are
// looked for whatever the kty says.
func privateParameters() []string {
	return []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
}

// privatePEM is in the label of every private key in PEM (RFC 7468), of whatever kind.
const privatePEM = "PRIVATE KEY"

// private tells whether the key has a private parameter. Of a key that somebody publishes, other members are anybody's.
func (m member) private() bool { return slices.ContainsFunc(privateParameters(), m.has) }

// privateIn lists what is private in what somebody wants to register, a key or what stands beside the keys, in whatever case
// and however deep: a key that was wrapped or written by other rules has left the machine as well. A parameter is told by its
// right name: the names around it are anybody's, and may be secret.
func privateIn(object map[string]json.RawMessage) []apperr.FieldError {
	var faults apperr.Fields
	found := words{names: slices.Collect(maps.Keys(object))}
	for _, value := range object {
		found.read(json.NewDecoder(bytes.NewReader(value)))
	}
	for _, private := range privateParameters() {
		if slices.ContainsFunc(found.names, func(name string) bool { return strings.EqualFold(name, private) }) {
			faults.Add(private, "is private key material: register the public key only")
		}
	}
	if slices.ContainsFunc(slices.Concat(found.names, found.texts), func(text string) bool { return strings.Contains(text, privatePEM) }) {
		faults.Add("", "has the text of a private key in it: register the public key only")
	}
	return faults.All()
}
