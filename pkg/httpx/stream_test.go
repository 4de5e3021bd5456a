package httpx_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
)

func TestAStreamHasNoTimeLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/all", func(c *gin.Context) {
		_, limited := c.Request.Context().Deadline()
		stream, ctx, release := httpx.NewStream(c, "application/x-ndjson")
		defer release()
		_, unlimited := ctx.Deadline()
		require.True(t, limited)
		require.False(t, unlimited)
		_, err := io.WriteString(stream, "{}\n")
		require.NoError(t, err)
		require.NoError(t, stream.Flush())
	})
	w := b.get("/all")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/x-ndjson", w.Header().Get("Content-Type"))
	require.Equal(t, "{}\n", w.Body.String())
}

func TestAStreamThatHasNotBegunCanStillBeRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Public().GET("/all", handler(func(c *gin.Context) error {
		_, _, release := httpx.NewStream(c, "application/x-ndjson")
		defer release()
		return errors.New("no")
	}))
	w := b.get("/all")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
}

func TestAStreamCanBeEndedWellWhenTheServerStops(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	r := run(t, func(b *bundle) {
		b.Public().GET("/all", func(c *gin.Context) {
			stream, ctx, release := httpx.NewStream(c, "text/plain")
			defer release()
			_, _ = io.WriteString(stream, "first ")
			close(started)
			<-ctx.Done()
			_, _ = io.WriteString(stream, context.Cause(ctx).Error())
		})
	})
	go func() {
		<-started
		r.stop()
	}()
	_, body := r.fetch(t, "http://"+r.PublicAddr()+"/all")
	require.Equal(t, "first "+httpx.ErrDraining.Error(), body)
	require.NoError(t, r.wait(t))
}

func TestAStreamEndsWithItsClient(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	r := run(t, func(b *bundle) {
		b.Public().GET("/all", func(c *gin.Context) {
			stream, ctx, release := httpx.NewStream(c, "text/plain")
			defer release()
			_, _ = io.WriteString(stream, "first")
			_ = stream.Flush()
			<-ctx.Done()
			ended <- context.Cause(ctx)
		})
	})
	res, err := r.do(t, http.MethodGet, "http://"+r.PublicAddr()+"/all")
	require.NoError(t, err)
	_, err = io.ReadFull(res.Body, make([]byte, len("first")))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestAStreamThatIsCutDoesNotLookComplete(t *testing.T) {
	t.Parallel()
	r := run(t, func(b *bundle) {
		b.Public().GET("/all", func(c *gin.Context) {
			stream, _, release := httpx.NewStream(c, "text/plain")
			defer release()
			_, _ = io.WriteString(stream, "first")
			_ = stream.Flush()
			stream.Cut()
		})
	})
	res, err := r.do(t, http.MethodGet, "http://"+r.PublicAddr()+"/all")
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, err = io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
