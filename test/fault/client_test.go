package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatWasCutOffIsUnsureThoughNobodyListensThen needs a server that answers one request, takes a second one on the same
// connection, and is gone before it answers that: the transport sends it again, and finds nobody.
func TestWhatWasCutOffIsUnsureThoughNobodyListensThen(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	second := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			second <- err
			return
		}
		reader := bufio.NewReader(connection)
		take := func() error {
			request, err := http.ReadRequest(reader)
			if err == nil {
				_, err = io.Copy(io.Discard, request.Body)
			}
			return err
		}
		if err = take(); err == nil {
			_, err = io.WriteString(connection, "HTTP/1.1 204 No Content\r\n\r\n")
		}
		if err == nil {
			err = take()
		}
		_ = listener.Close()
		_ = connection.Close()
		second <- err
	}()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s := &sender{
		http: &http.Client{Transport: transport}, random: newRandom(1, 1),
		replicas: map[string][]replica{"registry": {{name: "registry-1", address: listener.Addr().String()}}},
	}
	ask := request{service: "registry", method: http.MethodPost, path: "/", key: "one and the same", body: struct{}{}}
	require.Equal(t, done, s.send(t.Context(), ask).result())
	cut := s.send(t.Context(), ask)
	require.NoError(t, <-second)
	var dial *net.OpError
	require.ErrorAs(t, cut.err, &dial)
	require.Equal(t, "dial", dial.Op)
	require.Equal(t, unsure, cut.result())
	require.Equal(t, refused, s.send(t.Context(), ask).result(), "nobody listens")
}
