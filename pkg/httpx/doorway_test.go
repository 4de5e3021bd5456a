package httpx

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func listenAtDoorway(t *testing.T, crowded func() bool) *doorway {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d := newDoorway(l, crowded)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// knock opens a connection and sends something.
func knock(t *testing.T, d *doorway, text string) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", d.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn
}

func accept(t *testing.T, d *doorway) string {
	t.Helper()
	conn, err := d.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	text := make([]byte, 8)
	n, err := conn.Read(text)
	require.NoError(t, err)
	return string(text[:n])
}

func TestACrowdedDoorwayGivesUpWhoHangsUp(t *testing.T) {
	t.Parallel()
	d := listenAtDoorway(t, func() bool { return true })
	require.NoError(t, knock(t, d, "leaves").Close())
	reset := knock(t, d, "resets").(*net.TCPConn)
	require.NoError(t, reset.SetLinger(0))
	require.NoError(t, reset.Close())
	knock(t, d, "stays")
	require.Equal(t, "stays", accept(t, d))
}

func TestADoorwayWithoutACrowdLetsEverybodyIn(t *testing.T) {
	t.Parallel()
	d := listenAtDoorway(t, func() bool { return false })
	require.NoError(t, knock(t, d, "leaves").Close())
	require.Equal(t, "leaves", accept(t, d))
}

func TestWhoArrivedBeforeTheDoorwayClosedIsServed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	arrived := make(chan struct{}, 2)
	d := listenAtDoorway(t, func() bool { asked.Add(1); arrived <- struct{}{}; return true })
	knock(t, d, "first")
	knock(t, d, "second")
	<-arrived
	<-arrived
	require.NoError(t, d.Close())
	require.Equal(t, "first", accept(t, d))
	require.Equal(t, "second", accept(t, d))
	_, err := d.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.EqualValues(t, 2, asked.Load(), "once for each connection")
}

func TestAClosedDoorwayDoesNotWaitForSomebodyToHearOfAFailure(t *testing.T) {
	t.Parallel()
	f := faulty{errs: make(chan error, 1)}
	f.errs <- errors.New("no descriptors")
	close(f.errs)
	d := newDoorway(f, func() bool { return true })
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	<-d.closed
}

// faulty is a listener that fails a few times, and is closed then.
type faulty struct {
	net.Listener

	errs chan error
}

func (f faulty) Close() error { return nil }

func (f faulty) Accept() (net.Conn, error) {
	if err, ok := <-f.errs; ok {
		return nil, err
	}
	return nil, net.ErrClosed
}

func TestADoorwayPassesErrorsOnOneByOne(t *testing.T) {
	t.Parallel()
	first, second := errors.New("no descriptors"), errors.New("still none")
	f := faulty{errs: make(chan error, 2)}
	f.errs <- first
	f.errs <- second
	close(f.errs)
	d := newDoorway(f, func() bool { return true })
	for _, want := range []error{first, second, net.ErrClosed} {
		_, err := d.Accept()
		require.ErrorIs(t, err, want)
	}
}
