package httpx

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// Checker is implemented by request types that have rules of their own.
//
// DecodeJSON calls Check after decoding, also where some fields were of the
// wrong type, so that all failing fields are in one answer; what Check says
// about a field that has failed already (it looks absent then) is dropped.
type Checker interface {
	Check(f *apperr.Fields)
}

// usualBody is how long most bodies are at most, in bytes.
const usualBody = 4 << 10

// ReadBody reads the whole request body. More than 64 KiB (1 MiB on the
// internal listener) is PAYLOAD_TOO_LARGE, a body that breaks off is a VALIDATION_ERROR.
func ReadBody(c *gin.Context) ([]byte, error) {
	if c.Request.Body == nil {
		return nil, nil
	}
	// What the client says of the length is believed for a first guess only.
	var body bytes.Buffer
	body.Grow(int(min(max(c.Request.ContentLength, 0), usualBody)) + bytes.MinRead)
	_, err := body.ReadFrom(c.Request.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, apperr.New(apperr.PayloadTooLarge, "The request body is too large.").
			With(map[string]any{"limitBytes": tooLarge.Limit})
	case err != nil:
		return nil, apperr.Validation(apperr.FieldError{Field: wholeBody, Reason: "could not be read to its end"}).Because(err)
	}
	return body.Bytes(), nil
}

// DecodeJSON decodes the body, exactly one JSON object, into the struct that
// dst points to. It answers UNSUPPORTED_MEDIA_TYPE for anything but
// application/json in UTF-8, PAYLOAD_TOO_LARGE, and a VALIDATION_ERROR that
// lists every failing field: unknown and repeated ones, wrong types, text
// that is not Unicode or contains NUL, besides what Check finds (see Checker).
//
// Names match `json` tags in exact case. A pointer field stays nil if the
// field is absent; null is an error unless the pointer field is tagged
// `null:"allowed"`, where it counts as absent; a json.RawMessage takes any
// value, null too. UUIDs are lower-case canonical, times RFC 3339. Whether a
// field is required is for Check to say.
func DecodeJSON(c *gin.Context, dst any) error { return decodeRequest(c, dst, false) }

// DecodeJSONOrEmpty is DecodeJSON for routes where an absent body means {}.
func DecodeJSONOrEmpty(c *gin.Context, dst any) error { return decodeRequest(c, dst, true) }

func decodeRequest(c *gin.Context, dst any, optional bool) error {
	body, err := ReadBody(c)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		if !optional {
			return apperr.Validation(apperr.FieldError{Field: wholeBody, Reason: "is required and must be a JSON object"})
		}
		body = []byte("{}")
	} else if !isJSON(c.Request.Header) {
		return apperr.New(apperr.UnsupportedMediaType, "The request body must be application/json.")
	}
	return UnmarshalStrict(body, dst)
}

// isJSON accepts application/json, with no charset but UTF-8, not compressed.
func isJSON(h http.Header) bool {
	types := h.Values("Content-Type")
	if len(types) != 1 {
		return false
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || media != contentJSON {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}
