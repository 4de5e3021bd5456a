package httpx_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

// The edge is part of every token's cost; the issuing path has a budget of 60 allocations.
func TestTheEdgeIsCheap(t *testing.T) {
	b := setup(t)
	b.Public().POST("/things/:id", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	h := b.PublicHandler()
	r := httptest.NewRequest(http.MethodPost, "/things/1", nil)
	allocations := testing.AllocsPerRun(200, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	require.Less(t, allocations, 45.0, "with the recorder's own and a log line")
	t.Log(allocations)
}
