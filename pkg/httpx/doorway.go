package httpx

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// doorwayDelay is how long a new connection waits in a crowd before it is served. Who floods and does not wait for
	// answers has mostly hung up by then.
	doorwayDelay = 250 * time.Millisecond
	// doorwayRoom is how many connections wait there; more of them wait to be accepted.
	doorwayRoom = 8192
)

// doorway is a listener that, while it is crowded, keeps new connections waiting for doorwayDelay and gives up those
// whose clients have hung up by then. To read a request, look into it and find that nobody listens costs many times as
// much.
type doorway struct {
	net.Listener

	crowded func() bool
	arrived chan arrival
	failed  chan error
	leaving chan struct{} // closed when the listener is to be
	closed  chan struct{} // closed when it is, after the last arrival
	once    sync.Once
}

type arrival struct {
	conn net.Conn
	due  time.Time // zero: at once
}

func newDoorway(l net.Listener, crowded func() bool) *doorway {
	d := &doorway{
		Listener: l, crowded: crowded,
		arrived: make(chan arrival, doorwayRoom), failed: make(chan error), leaving: make(chan struct{}), closed: make(chan struct{}),
	}
	go d.admit()
	return d
}

// admit accepts connections until the listener is closed.
func (d *doorway) admit() {
	defer close(d.closed)
	for {
		conn, err := d.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// The next try is when somebody has heard of it, and waited as long as he thinks right.
			select {
			case d.failed <- err:
			case <-d.leaving: // and nobody hears any more
			}
		case d.crowded():
			d.arrived <- arrival{conn: conn, due: time.Now().Add(doorwayDelay)}
		default:
			d.arrived <- arrival{conn: conn}
		}
	}
}

// Close implements net.Listener.
func (d *doorway) Close() error {
	d.once.Do(func() { close(d.leaving) })
	return d.Listener.Close()
}

// Accept implements net.Listener, for one caller at a time. After Close it answers those that arrived before, at once.
func (d *doorway) Accept() (net.Conn, error) {
	for {
		next, err := d.next()
		if err != nil || next.due.IsZero() {
			return next.conn, err
		}
		d.wait(time.Until(next.due))
		if !hungUp(next.conn) {
			return next.conn, nil
		}
		_ = next.conn.Close()
	}
}

func (d *doorway) next() (arrival, error) {
	select {
	case next := <-d.arrived:
		return next, nil
	case err := <-d.failed:
		return arrival{}, err
	case <-d.closed:
	}
	select {
	case next := <-d.arrived:
		return next, nil
	default:
		return arrival{}, net.ErrClosed
	}
}

// wait returns early when the listener is closed.
func (d *doorway) wait(delay time.Duration) {
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.closed:
	}
}
