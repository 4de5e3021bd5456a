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
// Input.JSON calls Check after decoding, also where some fields were of the
// wrong type, so that all failing fields are in one answer; what Check says
// about a field that has failed already (it looks absent then) is dropped, and
// so is what it says about the whole body where any field has.
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

// JSON decodes the body, exactly one JSON object, into the struct that dst
// points to. What it refuses to look at is answered as UNSUPPORTED_MEDIA_TYPE,
// anything but application/json in UTF-8, or PAYLOAD_TOO_LARGE. Every failing
// field is wrong: unknown and repeated ones, wrong types, text that is not
// Unicode or contains NUL, besides what Check finds (see Checker).
//
// Names match `json` tags in exact case. A pointer field stays nil if the
// field is absent; null is an error unless the pointer field is tagged
// `null:"allowed"`, where it counts as absent; a json.RawMessage takes any
// value, null too. UUIDs are lower-case canonical, times RFC 3339. Whether a
// field is required is for Check to say.
func (in *Input) JSON(dst any) *Input { return in.body(dst, false) }

// JSONOrEmpty is JSON for routes where an absent body means {}.
func (in *Input) JSONOrEmpty(dst any) *Input { return in.body(dst, true) }

func (in *Input) body(dst any, optional bool) *Input {
	body, err := ReadBody(in.c)
	switch {
	case err != nil:
		in.refused = err
		return in
	case len(body) == 0 && !optional:
		in.Fail(wholeBody, "is required and must be a JSON object")
		return in
	case len(body) == 0:
		body = []byte("{}")
	case !isJSON(in.c.Request.Header):
		in.refused = apperr.New(apperr.UnsupportedMediaType, "The request body must be application/json.")
		return in
	}
	for _, f := range unmarshalStrict(body, dst) {
		in.Fail(f.Field, f.Reason)
	}
	return in
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
