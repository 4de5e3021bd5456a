package httpx

import (
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
)

// PathUUID is the path parameter name, a UUID in lower-case canonical form; else VALIDATION_ERROR.
func PathUUID(c *gin.Context, name string) (uuid.UUID, error) { return uuid.UUID{}, nil }

// ParseUUID accepts the lower-case canonical form only.
func ParseUUID(s string) (uuid.UUID, bool) { return uuid.UUID{}, false }

// Query reads the query string and collects what is wrong with it.
type Query struct{}

// NewQuery reads the request's query string. Parameters that are neither known nor asked for by a method are
// errors, as are repeated ones.
func NewQuery(c *gin.Context, known ...string) *Query { return &Query{} }

// Text is nil if the parameter is absent.
func (q *Query) Text(name string, max int) *string { return nil }

// Enum is nil if the parameter is absent.
func (q *Query) Enum(name string, values ...string) *string { return nil }

// UUID is nil if the parameter is absent.
func (q *Query) UUID(name string) *uuid.UUID { return nil }

// Time is nil if the parameter is absent.
func (q *Query) Time(name string, endOfDay bool) *time.Time { return nil }

// Page reads page, limit and cursor.
func (q *Query) Page() Page { return Page{} }

// Fail records an error of the caller's own.
func (q *Query) Fail(field, reason string) {}

// Err is nil, or a VALIDATION_ERROR with all that is wrong.
func (q *Query) Err() error { return nil }
