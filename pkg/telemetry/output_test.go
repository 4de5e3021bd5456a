package telemetry

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnEmbeddingProgramChoosesWhereAServiceLogs(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer

	tel, shutdown, err := New(WithOutput(t.Context(), &log), Config{LogLevel: "info"}, "registry")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, shutdown(t.Context())) })
	tel.Log.Info("hello")

	require.Contains(t, log.String(), `"service":"registry"`)
	require.Same(t, os.Stderr, output(t.Context()), "without it, logs go to standard error")
}
