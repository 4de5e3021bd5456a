package httpapi

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	// mostExports is how many exports a replica writes at a time: each keeps a core
	// and a connection to Postgres busy.
	mostExports = 4
	exportRetry = 10 * time.Second
	contentType = "application/x-ndjson"
)

// Exporter prepares exports of the log; *export.Exporter is one.
type Exporter interface {
	Begin(ctx context.Context, request export.Request) (*export.Export, error)
}

func (a *api) export(c *gin.Context) error {
	if err := a.guard.Authorize(c, nil); err != nil {
		return err
	}
	request, err := a.readExport(c)
	if err != nil {
		return err
	}
	select {
	case a.exports <- struct{}{}:
		defer func() { <-a.exports }()
	default:
		return apperr.New(apperr.RateLimitExceeded, "Too many exports are under way.").WithRetryAfter(exportRetry)
	}
	stream, ctx, release := httpx.NewStream(c, contentType)
	defer release()
	prepared, err := a.exporter.Begin(ctx, request)
	if errors.Is(err, export.ErrPastEnd) {
		return apperr.Validation(apperr.FieldError{Field: "cursor", Reason: "lies after the end of the log"})
	}
	if err != nil {
		return err
	}
	complete, err := prepared.Write(ctx, stream)
	if err != nil {
		_ = c.Error(err) // for the log; the response has begun
	}
	if !complete && !prepared.Ended() {
		stream.Cut() // no line says that there is more
	}
	return nil
}

// readExport is what the query asks for.
func (a *api) readExport(c *gin.Context) (export.Request, error) {
	in := httpx.NewInput(c)
	filter := readFilter(c, in)
	request := export.Request{Format: export.FormatLog}
	if format := in.Enum("format", export.Formats()...); format != nil {
		request.Format = export.Format(*format)
	}
	if cursor := in.Text("cursor", len(strconv.FormatInt(math.MaxInt64, 10))); cursor != nil {
		first, err := strconv.ParseInt(*cursor, 10, 64)
		if err != nil || first < 0 || strconv.FormatInt(first, 10) != *cursor {
			in.Fail("cursor", "must be the cursor of an earlier export, or a leaf index")
		}
		request.First = first
	}
	if proofs := in.Enum("proofs", "true", "false"); proofs != nil && *proofs == "true" {
		request.Proofs = true
		if request.Format != export.FormatLog {
			in.Fail("proofs", "are only in the format "+string(export.FormatLog))
		}
	}
	if err := in.Err(); err != nil {
		return request, err
	}
	if filter == (trail.Filter{}) && request.Format == export.FormatLog {
		return request, nil // the log as it is: whoever verifies has to see all that is stored
	}
	filter, err := a.reader.Narrow(filter)
	request.Filter = &filter
	return request, err
}
