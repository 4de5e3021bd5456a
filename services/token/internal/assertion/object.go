package assertion

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

// readObject reads a JSON object in UTF-8 in which no object has a member twice: two
// readers must never see two different assertions.
func readObject(raw []byte) (members, error) {
	var object members
	if !utf8.Valid(raw) || json.Unmarshal(raw, &object) != nil || object == nil || jwk.RepeatsName(raw) {
		return nil, errMalformed
	}
	return object, nil
}
