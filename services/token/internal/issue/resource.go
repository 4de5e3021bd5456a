package issue

import (
	"encoding/json"
	"fmt"
	"slices"
)

const (
	// maxResources bounds what one request may name; no agent is allowed more.
	maxResources = 16
	// shownResourceBytes bounds what an error repeats of a resource.
	shownResourceBytes = 128
)

// Audience is the claim aud: a string in JSON when there is one, else an array (RFC 7519 §4.1.3).
type Audience []string

// MarshalJSON writes the string or the array.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return appendString(make([]byte, 0, len(a[0])+2), a[0])
	}
	text := []byte{'['}
	for i, one := range a {
		if i > 0 {
			text = append(text, ',')
		}
		var err error
		if text, err = appendString(text, one); err != nil {
			return nil, err
		}
	}
	return append(text, ']'), nil
}

// appendString writes a JSON string. The characters of a URI stand in it as they are:
// whether an & is escaped is for the encoder to say whose value this becomes a part of.
func appendString(text []byte, value string) ([]byte, error) {
	for i := range len(value) {
		if c := value[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			escaped, err := json.Marshal(value)
			return append(text, escaped...), err
		}
	}
	text = append(text, '"')
	text = append(text, value...)
	return append(text, '"'), nil
}

// checkResources refuses what no agent gets. A token is never for the issuer and others, who could pass it on to us.
func checkResources(requested []string, issuer string) error {
	if len(requested) > maxResources {
		return RefuseField(InvalidTarget, "resource", fmt.Sprintf("At most %d resources may be requested.", maxResources))
	}
	others := func(resource string) bool { return resource != issuer }
	if slices.Contains(requested, issuer) && slices.ContainsFunc(requested, others) {
		return RefuseField(InvalidTarget, "resource", "A token for "+issuer+" is for no other resource. Request one for each.")
	}
	return nil
}

// resolveAudience decides whom a token is for (RFC 8707 §2): exactly the resources
// that were asked for, in that order and without repeats, each spelled as the agent
// is allowed it; that those are absolute URIs without a fragment is the registry's
// rule. It is nil when none was, or the issuer: then the token is for the issuer
// alone.
func resolveAudience(agent Agent, requested []string, issuer string) (Audience, error) {
	if len(requested) == 0 {
		return nil, nil
	}
	audience := make(Audience, 0, len(requested))
	for _, resource := range requested {
		switch {
		case !slices.Contains(agent.AllowedResources, resource):
			if len(resource) > shownResourceBytes {
				resource = resource[:shownResourceBytes] + "..."
			}
			return nil, notAllowed(InvalidTarget, "resource", "This client may not request the resource '"+resource+"'.")
		case !slices.Contains(audience, resource):
			audience = append(audience, resource)
		}
	}
	if audience[0] == issuer {
		return nil, nil
	}
	return audience, nil
}
