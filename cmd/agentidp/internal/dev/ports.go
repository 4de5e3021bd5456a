package dev

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

const (
	loopback = "127.0.0.1"

	// Ports for what runs behind the ingress are taken below the range (32768 and up) from which Linux
	// serves outgoing connections, so that none of those can take a port between choosing and listening.
	lowestInnerPort  = 20000
	highestInnerPort = 32000

	// portBlocks is in how many blocks these ports are shared out.
	portBlocks = 600

	// portsToTry bounds the search for a port near the one asked for.
	portsToTry = 100
)

// listenIngress opens the public port. A port that is taken is an error when it was asked for by name;
// else the next free one is used. Port 0 means any.
func listenIngress(ctx context.Context, port int, exact bool) (net.Listener, error) {
	listener, err := listen(ctx, port)
	if err == nil {
		return listener, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	if exact {
		return nil, fmt.Errorf("port %d is taken by another program; give another --port, or none to have a free one picked", port)
	}
	for next := port + 1; next <= port+portsToTry && next <= 65535; next++ {
		if listener, err := listen(ctx, next); err == nil {
			return listener, nil
		}
	}
	listener, err = listen(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	return listener, nil
}

func listen(ctx context.Context, port int) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(port)))
}

func portOf(listener net.Listener) int {
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return address.Port
}

// portBlock is a run of ports that belongs to one process: as long as it is held, no other `agentidp dev`
// takes one of them, also while nothing listens there yet.
type portBlock struct {
	ports []int
	guard net.PacketConn
}

// takePorts finds a block of ports that nothing listens on. The UDP side of its first port, which nobody
// uses, marks it as taken; the kernel gives that back when the process ends in whatever way.
func takePorts(ctx context.Context, count int) (*portBlock, error) {
	const size = (highestInnerPort - lowestInnerPort) / portBlocks
	if count > size {
		return nil, fmt.Errorf("%d ports do not fit into a block of %d", count, size)
	}
	var config net.ListenConfig
	for _, block := range rand.Perm(portBlocks) { //nolint:gosec // no secret, only spread
		first := lowestInnerPort + block*size
		guard, err := config.ListenPacket(ctx, "udp4", net.JoinHostPort(loopback, strconv.Itoa(first)))
		if err != nil {
			continue
		}
		taken := &portBlock{guard: guard}
		for port := first; port < first+size && len(taken.ports) < count; port++ {
			if isFree(ctx, port) {
				taken.ports = append(taken.ports, port)
			}
		}
		if len(taken.ports) == count {
			return taken, nil
		}
		taken.release()
	}
	return nil, fmt.Errorf("no %d free ports between %d and %d", count, lowestInnerPort, highestInnerPort)
}

func (b *portBlock) release() { _ = b.guard.Close() } // nothing was written

func isFree(ctx context.Context, port int) bool {
	listener, err := listen(ctx, port)
	if err != nil {
		return false
	}
	_ = listener.Close() // nobody connected
	return true
}
