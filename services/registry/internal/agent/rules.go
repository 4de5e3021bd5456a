package agent

import (
	"fmt"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
)

// Limits of the fields, in characters where they are text.
const (
	MaxEmail        = 254
	MaxVersion      = 256
	MaxCapabilities = 64
	MaxCapability   = 64
	MaxOwner        = 128
	MaxResources    = 16
	// MaxResource keeps a token for several of them within the header that it is sent in.
	MaxResource = 256
)

const (
	maxEmailLocal  = 64 // RFC 5321 §4.5.3.1.1
	maxDomainLabel = 63 // RFC 1035 §2.3.4
)

var (
	// semanticVersion is the expression that semver.org gives for version 2.0.0.
	semanticVersion = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
		`(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?` +
		`(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$`)
	capability = regexp.MustCompile(`^([a-z][a-z0-9-]*):([a-z][a-z0-9-]*|\*)$`)
	// absoluteURI is a scheme and the characters of RFC 3986 §2 without the fragment's.
	absoluteURI = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:(?:[a-zA-Z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9a-fA-F]{2})+$`)
	// namesHost is what cannot be meant without a host.
	namesHost   = regexp.MustCompile(`^(?i:https?):|^[^:]+://`)
	domainLabel = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?$`)
)

// Attributes are the fields of an agent that a caller may name; nil is a field that was not given.
type Attributes struct {
	Email         *string
	Type          *string
	Version       *string
	Capabilities  *[]string
	Owner         *string
	DeploymentEnv *string
	AllowedScopes *[]string
	// AllowedResources has no place in the fingerprint of a body that does not name it: remembered registrations may be
	// older than the field.
	AllowedResources *[]string `json:",omitempty"`
	Status           *string
}

// FaultsOfRegistration lists what is wrong with a registration: every required field that is missing and every
// given one that breaks its rule. allowedScopes may be left out, and a status cannot be chosen.
func (a Attributes) FaultsOfRegistration() []apperr.FieldError {
	required := []string{"email", "agentType", "version", "capabilities", "owner", "deploymentEnv"}
	return append(a.missing(required...), a.faults()...)
}

// FaultsOfChange lists what is wrong with a change: every given field that breaks its rule. Decommissioning is
// not a change of status, it has an operation of its own.
func (a Attributes) FaultsOfChange() []apperr.FieldError {
	faults := a.faults()
	if a.Status != nil && *a.Status != string(Active) && *a.Status != string(Suspended) {
		reason := oneOf(string(Active), string(Suspended))
		faults = append(faults, apperr.FieldError{Field: "status", Reason: reason})
	}
	return faults
}

// missing lists those of the fields that were not given.
func (a Attributes) missing(fields ...string) []apperr.FieldError {
	given := map[string]bool{
		"email":         a.Email != nil,
		"agentType":     a.Type != nil,
		"version":       a.Version != nil,
		"capabilities":  a.Capabilities != nil,
		"owner":         a.Owner != nil,
		"deploymentEnv": a.DeploymentEnv != nil,
	}
	var faults []apperr.FieldError
	for _, field := range fields {
		if !given[field] {
			faults = append(faults, apperr.FieldError{Field: field, Reason: "is required"})
		}
	}
	return faults
}

func (a Attributes) faults() []apperr.FieldError {
	var faults []apperr.FieldError
	add := func(field, reason string) {
		if reason != "" {
			faults = append(faults, apperr.FieldError{Field: field, Reason: reason})
		}
	}
	if a.Email != nil {
		add("email", CheckEmail(*a.Email))
	}
	if a.Type != nil {
		add("agentType", checkMember(*a.Type, Types()))
	}
	if a.Version != nil {
		add("version", checkVersion(*a.Version))
	}
	if a.Capabilities != nil {
		add("capabilities", checkCapabilities(*a.Capabilities))
	}
	if a.Owner != nil {
		add("owner", apperr.CheckText(*a.Owner, 1, MaxOwner))
	}
	if a.DeploymentEnv != nil {
		add("deploymentEnv", checkMember(*a.DeploymentEnv, Environments()))
	}
	if a.AllowedScopes != nil {
		add("allowedScopes", checkScopes(*a.AllowedScopes))
	}
	if a.AllowedResources != nil {
		add("allowedResources", checkResources(*a.AllowedResources))
	}
	return faults
}

// FaultsOfOperator lists what is wrong with the bootstrap operator's fields; the environment may be left out.
func (a Attributes) FaultsOfOperator() []apperr.FieldError {
	return append(a.missing("email", "owner"), a.faults()...)
}

// CheckEmail returns what is wrong with an address, or "". An address is local@domain in ASCII, at most 254
// characters long: without display name, comment, quoted local part or address literal, so that two spellings
// of one mailbox differ in case only.
func CheckEmail(value string) string {
	const invalid = "must be a valid email address"
	if value == "" {
		return invalid
	}
	if len(value) > MaxEmail {
		return fmt.Sprintf("must be at most %d characters", MaxEmail)
	}
	if strings.IndexFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0 {
		return invalid
	}
	parsed, err := mail.ParseAddress(value)
	if err != nil || parsed.Name != "" || parsed.Address != value {
		return invalid
	}
	at := strings.LastIndexByte(value, '@')
	if at > maxEmailLocal {
		return invalid
	}
	for label := range strings.SplitSeq(value[at+1:], ".") {
		if len(label) > maxDomainLabel || !domainLabel.MatchString(label) {
			return invalid
		}
	}
	return ""
}

// CheckCapability returns what is wrong with one capability, or "". Whether its resource is reserved is not
// looked at: such a capability is well formed, but no agent can have it.
func CheckCapability(value string) string {
	if len(value) > MaxCapability || !capability.MatchString(value) {
		return fmt.Sprintf("must be resource:action in lower case, at most %d characters", MaxCapability)
	}
	return ""
}

func checkVersion(value string) string {
	if len(value) > MaxVersion {
		return fmt.Sprintf("must be at most %d characters", MaxVersion)
	}
	if !semanticVersion.MatchString(value) {
		return "must be a semantic version (semver 2.0.0), such as 1.4.0"
	}
	return ""
}

func checkCapabilities(values []string) string {
	if len(values) < 1 || len(values) > MaxCapabilities {
		return fmt.Sprintf("must have 1 to %d items", MaxCapabilities)
	}
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		if reason := CheckCapability(value); reason != "" {
			return fmt.Sprintf("item %d %s", i, reason)
		}
		resource, _, _ := strings.Cut(value, ":")
		if slices.Contains(authz.ReservedResources(), resource) {
			return fmt.Sprintf("item %d names the reserved resource %q", i, resource)
		}
		if seen[value] {
			return fmt.Sprintf("item %d repeats an earlier one", i)
		}
		seen[value] = true
	}
	return ""
}

func checkScopes(values []string) string {
	known := authz.SystemScopes()
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		if !slices.Contains(known, value) {
			return fmt.Sprintf("item %d is not a system scope: %s", i, oneOf(known...))
		}
		if seen[value] {
			return fmt.Sprintf("item %d repeats an earlier one", i)
		}
		seen[value] = true
	}
	return ""
}

func checkResources(values []string) string {
	if len(values) > MaxResources {
		return fmt.Sprintf("must have at most %d items", MaxResources)
	}
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		if reason := checkResource(value); reason != "" {
			return fmt.Sprintf("item %d %s", i, reason)
		}
		if seen[value] {
			return fmt.Sprintf("item %d repeats an earlier one", i)
		}
		seen[value] = true
	}
	return ""
}

// checkResource holds a value against RFC 8707 §2: an absolute URI (RFC 3986 §4.3), which has no fragment. A user name or
// password has no place in the audience of a token.
func checkResource(value string) string {
	if len(value) > MaxResource {
		return fmt.Sprintf("must be at most %d characters", MaxResource)
	}
	if strings.Contains(value, "#") {
		return "must have no fragment"
	}
	parsed, err := url.Parse(value)
	if err != nil || !absoluteURI.MatchString(value) || (parsed.Hostname() == "" && namesHost.MatchString(value)) {
		return "must be an absolute URI, such as https://api.example.com/"
	}
	if parsed.User != nil {
		return "must have no user name or password in it"
	}
	return ""
}

func checkMember(value string, members []string) string {
	if slices.Contains(members, value) {
		return ""
	}
	return oneOf(members...)
}

func oneOf(members ...string) string {
	return "must be one of " + strings.Join(members, ", ")
}
