package httpx

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const contentJSON = "application/json"

// Handler is a request handler whose error becomes the response.
type Handler func(c *gin.Context) error

// Handle makes a gin handler of h: what it returns goes to WriteError.
func Handle(h Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			WriteError(c, err)
		}
	}
}

// WriteError answers with err as apperr.From sees it, and aborts the handler
// chain. A 401 always carries WWW-Authenticate, a 429 and a 503 always
// Retry-After. The cause goes to the request's log line (of a 5xx; of others
// at debug level), never to the client. A response that has begun stays as it is.
func WriteError(c *gin.Context, err error) {
	e := apperr.From(err)
	if e == nil {
		return
	}
	_ = c.Error(err) // read by observe, which logs it
	c.Abort()
	if c.Writer.Written() {
		return
	}
	h, status := c.Writer.Header(), e.Code.Status()
	if challenge := e.Challenge; challenge != "" {
		h.Set("WWW-Authenticate", challenge)
	} else if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="agentidp"`)
	}
	if e.RetryAfter > 0 || status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", RetrySeconds(e.RetryAfter))
	}
	// What the route said of a success does not hold for an error.
	h.Set("Cache-Control", "no-store")
	h.Del("ETag")
	JSON(c, status, e)
}

// RetrySeconds is the value of Retry-After: rounded up, so that who waits that long waits long enough, and 1 at least.
func RetrySeconds(d time.Duration) string {
	seconds := (d + time.Second - 1) / time.Second
	return strconv.FormatInt(int64(max(seconds, 1)), 10)
}

// JSON answers with body as application/json. Prefer it to gin's c.JSON, which
// adds a charset parameter that the media type does not have (RFC 8259 §11).
func JSON(c *gin.Context, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		// Only a programming error gets here; an *apperr.Error without details always encodes.
		WriteError(c, apperr.Internal(err))
		return
	}
	c.Data(status, contentJSON, encoded)
}

// NoStore forbids every cache to keep the response (RFC 6749 §5.1), for what
// carries a secret or a token. Cache-Control: no-store is on every response
// already, unless the handler set another; this adds Pragma for HTTP/1.0.
func NoStore(c *gin.Context) {
	c.Header("Cache-Control", "no-store")
	c.Header("Pragma", "no-cache")
}
