package httpapi

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const (
	mediaForm = "application/x-www-form-urlencoded"
	// maxParameters bounds what one form may hold.
	maxParameters = 64

	parameterResource = "resource"
)

// form holds the parameters of a request body. An empty value counts as absent
// (RFC 6749 §3.2).
type form struct {
	parameters map[string]string
	// resources are the values of resource, the one parameter that may be repeated
	// (RFC 8707 §2), in order.
	resources []string
}

// get gives a parameter, "" if there is none.
func (f form) get(name string) string { return f.parameters[name] }

// bodyParameters are what belongs into the body and nowhere else: a query string
// ends up in logs and histories.
func bodyParameters() []string {
	return []string{
		"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type",
		"scope", parameterResource, "token", "token_type_hint", "access_token",
	}
}

// readForm reads the body of a request as a form.
func readForm(c *gin.Context) (form, error) {
	if err := checkQuery(c.Request.URL.RawQuery); err != nil {
		return form{}, err
	}
	if !isForm(c.Request.Header) {
		return form{}, issue.Refuse(issue.UnsupportedMediaType, "The request body must be "+mediaForm+".")
	}
	body, err := httpx.ReadBody(c)
	if apperr.CodeOf(err) == apperr.PayloadTooLarge {
		return form{}, issue.Refuse(issue.TooLarge, "The request body is too large.")
	}
	if err != nil {
		return form{}, issue.Refuse(issue.InvalidRequest, "The request body could not be read to its end.")
	}
	return parseForm(string(body))
}

// checkQuery refuses parameters of ours in the query string, and one that cannot be read.
func checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return issue.Refuse(issue.InvalidRequest, "The query string is malformed.")
	}
	for _, name := range bodyParameters() {
		if query.Has(name) {
			return issue.RefuseField(issue.InvalidRequest, name,
				"The parameter "+name+" must be in the request body, not in the query string.")
		}
	}
	return nil
}

// isForm accepts the one media type, in UTF-8, not compressed.
func isForm(header http.Header) bool {
	types := header.Values("Content-Type")
	if len(types) != 1 {
		return false
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	if err != nil || media != mediaForm {
		return false
	}
	charset, given := parameters["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}

// parseForm reads application/x-www-form-urlencoded (RFC 6749 appendix B) more
// strictly than net/url: every parameter but resource at most once, UTF-8 throughout.
func parseForm(body string) (form, error) {
	parsed := form{parameters: map[string]string{}}
	if body == "" {
		return parsed, nil
	}
	count := 0
	for pair := range strings.SplitSeq(body, "&") {
		if count++; count > maxParameters {
			return form{}, issue.Refuse(issue.InvalidRequest, "The request body has too many parameters.")
		}
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := formDecode(rawName)
		if err != nil {
			return form{}, errMalformedForm()
		}
		value, err := formDecode(rawValue)
		if err != nil {
			return form{}, errMalformedForm()
		}
		if value == "" { // as if it were not there, also when it is counted (RFC 6749 §3.2)
			continue
		}
		if name == parameterResource {
			parsed.resources = append(parsed.resources, value)
			continue
		}
		if _, repeated := parsed.parameters[name]; repeated {
			return form{}, issue.RefuseField(issue.InvalidRequest, printable(name), "The parameter "+printable(name)+" is repeated.")
		}
		parsed.parameters[name] = value
	}
	return parsed, nil
}

func errMalformedForm() error {
	return issue.Refuse(issue.InvalidRequest, "The request body is not a well-formed form in UTF-8.")
}

var errNotUTF8 = errors.New("not UTF-8")

// formDecode undoes the encoding of one name or value.
func formDecode(text string) (string, error) {
	decoded := text
	// What has none of these is as it was. Tokens are: to look at each of their characters takes forty times as long.
	if strings.Contains(text, "%") || strings.Contains(text, "+") {
		var err error
		if decoded, err = url.QueryUnescape(text); err != nil {
			return "", err
		}
	}
	if !utf8.ValidString(decoded) {
		return "", errNotUTF8
	}
	return decoded, nil
}

const maxPrintable = 64

// printable makes text from outside fit for error_description: the characters of
// RFC 6749 §5.2 (%x20-21 / %x23-5B / %x5D-7E), and not too many of them.
func printable(text string) string {
	text = describe(text)
	if len(text) > maxPrintable {
		return text[:maxPrintable] + "..."
	}
	return text
}

// describe leaves only the characters of error_description.
func describe(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		default:
			return r
		}
	}, text)
}
