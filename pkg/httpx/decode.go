package httpx

import (
	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// Checker is implemented by request types that have rules of their own.
// DecodeJSON calls Check after decoding, also if some fields were of a wrong type, so that
// ALL failing fields are in one answer; what Check says of a field that failed
// already is dropped.
type Checker interface {
	Check(f *apperr.Fields)
}

// ReadBody reads the request's body, at most 64 KiB; else PAYLOAD_TOO_LARGE.
func ReadBody(c *gin.Context) ([]byte, error) { return nil, nil }

// DecodeJSON decodes the body, one JSON object, into the struct that dst points to.
func DecodeJSON(c *gin.Context, dst any) error { return nil }

// DecodeJSONOrEmpty is DecodeJSON where an absent body counts as {}.
func DecodeJSONOrEmpty(c *gin.Context, dst any) error { return nil }
