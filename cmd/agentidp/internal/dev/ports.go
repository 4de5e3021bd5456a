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

// freePorts chooses distinct ports that nothing listens on now.
func freePorts(ctx context.Context, count int) ([]int, error) {
	ports := make([]int, 0, count)
	for _, offset := range rand.Perm(highestInnerPort - lowestInnerPort) { //nolint:gosec // no secret, only spread
		listener, err := listen(ctx, lowestInnerPort+offset)
		if err != nil {
			continue
		}
		defer func() { _ = listener.Close() }() //nolint:revive // all are held until all are chosen
		ports = append(ports, lowestInnerPort+offset)
		if len(ports) == count {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports between %d and %d", count, lowestInnerPort, highestInnerPort)
}
