package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/httpx"
)

// publicJWKS is GET and HEAD /.well-known/jwks.json.
func (a *api) publicJWKS(c *gin.Context) error {
	document, err := a.Keys.JWKS()
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "public, max-age="+strconv.Itoa(int(document.MaxAge.Seconds())))
	c.Header("ETag", document.ETag)
	if matches(c.Request.Header, document.ETag) {
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return nil
	}
	c.Data(http.StatusOK, mediaJSON, document.Body)
	return nil
}

// internalJWKS is the same document for the other services. They refuse tokens whose
// key is not in it, so it must be complete: where the store cannot be asked they are
// told so, and keep the keys they have.
func (a *api) internalJWKS(c *gin.Context) error {
	if err := httpx.NewInput(c).Err(); err != nil {
		return err
	}
	document, err := a.Keys.CurrentJWKS(c.Request.Context())
	if err != nil {
		return err
	}
	c.Data(http.StatusOK, mediaJSON, document.Body)
	return nil
}

// matches is If-None-Match (RFC 9110 §13.1.2), which compares weakly.
func matches(header http.Header, etag string) bool {
	for candidate := range strings.SplitSeq(strings.Join(header.Values("If-None-Match"), ","), ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
			return true
		}
	}
	return false
}
