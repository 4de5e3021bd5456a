package rollout

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// balancer passes connections on to one of the replicas that are ready, as a Service of Kubernetes does: it knows nothing
// of what is said on them.
type balancer struct {
	address  string
	replicas []*replica
	turn     atomic.Uint64
}

// replica is one address to pass to, and what tells whether it is ready.
type replica struct {
	address string
	ready   func() bool
	serving atomic.Bool
}

// balance listens for the time of the test.
func balance(t *testing.T, replicas ...*replica) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &balancer{address: listener.Addr().String(), replicas: replicas}
	done := make(chan struct{})
	var running sync.WaitGroup
	for _, r := range replicas {
		r.serving.Store(r.ready())
		running.Go(func() { r.watch(done) })
	}
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.pass(conn)
		}
	})
	t.Cleanup(func() {
		close(done)
		_ = listener.Close()
		running.Wait()
	})
	return b
}

func (r *replica) watch(done <-chan struct{}) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			r.serving.Store(r.ready())
		}
	}
}

// pass joins the connection with one to a replica, in both directions, each of which may end before the other.
func (b *balancer) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	for range b.replicas {
		r := b.replicas[b.turn.Add(1)%uint64(len(b.replicas))]
		if !r.serving.Load() {
			continue
		}
		server, err := net.DialTimeout("tcp", r.address, time.Second)
		if err != nil {
			continue
		}
		defer func() { _ = server.Close() }()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.Copy(server, client)
			_ = server.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, server)
		_ = client.(*net.TCPConn).CloseWrite()
		<-sent
		return
	}
}
