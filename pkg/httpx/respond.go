package httpx

import "github.com/gin-gonic/gin"

// Handler is a handler whose error becomes the response.
type Handler func(c *gin.Context) error

// Handle adapts a Handler.
func Handle(h Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			WriteError(c, err)
		}
	}
}

// WriteError answers with err and aborts the handler chain.
func WriteError(c *gin.Context, err error) {}

// JSON answers with body as application/json. Prefer it to gin's c.JSON.
func JSON(c *gin.Context, status int, body any) {}

// NoStore forbids every cache to keep the response (RFC 6749 §5.1).
func NoStore(c *gin.Context) {}
