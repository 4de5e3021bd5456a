package httpapi

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/httpx"
)

// Log answers questions about the trail as a transparency log; *merkle.Log is one.
type Log interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	Prove(ctx context.Context, eventID uuid.UUID) (auditlog.Proof, error)
	Consistency(ctx context.Context, from int64, to *int64) (auditlog.Consistency, error)
	Tile(ctx context.Context, tile tlog.Tile) ([]byte, error)
}

const (
	contentNote = "text/plain; charset=utf-8"
	contentTile = "application/octet-stream"

	// fresh: a cache asks again each time. lasting: a tile of one width never
	// changes. secret: as lasting, but for the caller's own cache alone.
	fresh   = "no-cache"
	lasting = "public, max-age=31536000, immutable"
	secret  = "private, max-age=31536000, immutable"
)

func (a *api) checkpoint(c *gin.Context) error {
	signed, err := a.log.Checkpoint(c.Request.Context())
	if err != nil {
		return err
	}
	c.Header("Cache-Control", fresh)
	c.Data(http.StatusOK, contentNote, signed)
	return nil
}

func (a *api) consistency(c *gin.Context) error {
	in := httpx.NewInput(c)
	from, to := in.Size("from"), in.Size("to")
	if c.Query("from") == "" {
		in.Fail("from", "is required")
	}
	if err := in.Err(); err != nil {
		return err
	}
	answer, err := a.log.Consistency(c.Request.Context(), *from, to)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, answer)
	return nil
}

func (a *api) prove(c *gin.Context) error {
	id, err := a.admit(c)
	if err != nil {
		return err
	}
	proof, err := a.log.Prove(c.Request.Context(), id)
	if err != nil {
		return err
	}
	httpx.JSON(c, http.StatusOK, proof)
	return nil
}

func (a *api) hashes(c *gin.Context) error {
	return a.tile(c, "tile/"+c.Param("level")+c.Param("index"), lasting)
}

func (a *api) entries(c *gin.Context) error {
	if err := a.guard.Authorize(c, nil); err != nil {
		return err
	}
	return a.tile(c, "tile/entries"+c.Param("index"), secret)
}

func (a *api) tile(c *gin.Context, path, caching string) error {
	tile, err := auditlog.ParseTilePath(path)
	if err != nil {
		return apperr.Validation(apperr.FieldError{Field: "index", Reason: "must be the path of a tile such as 0/x001/234 or 0/000.p/5"})
	}
	data, err := a.log.Tile(c.Request.Context(), tile)
	if err != nil {
		return err
	}
	c.Header("Cache-Control", caching)
	c.Data(http.StatusOK, contentTile, data)
	return nil
}
