package httpx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// writeWithin is how long one write of a Stream may take: a client that reads nothing for so long is gone.
const writeWithin = 30 * time.Second

// ErrDraining is why the context of a Stream ended (context.Cause) when the server is about to stop: what was begun is to
// be brought to an end that the client can go on from.
var ErrDraining = errors.New("the server is stopping")

// limited is the context of a request with a time limit, which remembers what holds without it.
type limited struct {
	context.Context //nolint:containedctx // it is one

	unlimited context.Context //nolint:containedctx // the one it was made of
	drains    <-chan struct{}
}

// limitedKey asks a context for the limited that it was made of.
type limitedKey struct{}

// Value finds c itself, too.
func (c *limited) Value(key any) any {
	if key == (limitedKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Stream is a response of any length, written as it comes into being. The time limit of ordinary requests does not hold
// for it; a client that stops reading ends it. Nothing is sent before the first Write, so until then an error can still
// become an ordinary answer. It is not safe for concurrent use.
type Stream struct {
	c           *gin.Context
	contentType string
	control     *http.ResponseController
}

// NewStream takes the response of a public request over. The context is for the work: it ends with release, when the
// client leaves, or with ErrDraining as its cause when the server is about to stop; the stream can still be written
// to then.
func NewStream(c *gin.Context, contentType string) (s *Stream, ctx context.Context, release func()) {
	s = &Stream{c: c, contentType: contentType, control: http.NewResponseController(c.Writer)}
	outer, draining := c.Request.Context(), (<-chan struct{})(nil)
	if request, ok := outer.Value(limitedKey{}).(*limited); ok {
		outer, draining = request.unlimited, request.drains
	}
	// The read deadline of the request would end its context. Where the connection has none, there is nothing to lift.
	_ = s.control.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(outer)
	released := make(chan struct{})
	go func() {
		select {
		case <-draining:
			cancel(ErrDraining)
		case <-released:
		case <-ctx.Done():
		}
	}()
	return s, ctx, func() {
		close(released)
		cancel(context.Canceled)
	}
}

// Write sends p, at the latest with the next Flush.
func (s *Stream) Write(p []byte) (int, error) {
	if !s.c.Writer.Written() {
		s.c.Header("Content-Type", s.contentType)
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(writeWithin)) // no deadline where the connection knows none
	n, err := s.c.Writer.Write(p)
	if err != nil {
		return n, fmt.Errorf("write to the client: %w", err)
	}
	return n, nil
}

// Flush sends what was written.
func (s *Stream) Flush() error {
	if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

// Cut ends a response that was begun so that the client notices that its end is missing, and does not return.
func (*Stream) Cut() { panic(http.ErrAbortHandler) }
