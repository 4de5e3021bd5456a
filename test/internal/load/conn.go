package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// connection is one keep-alive HTTP/1.1 connection that sends requests as prepared bytes and reads just enough of the
// answers: net/http's client costs several times as much, and that would be taken from what is measured.
type connection struct {
	net.Conn

	buffer []byte
}

const bufferBytes = 16 << 10

func dial(ctx context.Context, address string, deadline time.Time) (*connection, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := c.SetDeadline(deadline); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &connection{Conn: c, buffer: make([]byte, bufferBytes)}, nil
}

// roundTrip sends one request and reads its answer. The body is good until the next call.
func (c *connection) roundTrip(request []byte) (status int, body []byte, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, nil, fmt.Errorf("send: %w", err)
	}
	filled := 0
	for {
		n, err := c.Read(c.buffer[filled:])
		filled += n
		if err != nil {
			return 0, nil, fmt.Errorf("receive: %w", err)
		}
		head := bytes.Index(c.buffer[:filled], []byte("\r\n\r\n"))
		if head < 0 {
			if filled == len(c.buffer) {
				return 0, nil, fmt.Errorf("the head of the answer is longer than %d bytes", len(c.buffer))
			}
			continue
		}
		status, length, ok := parseHead(c.buffer[:head+2])
		if !ok || head+4+length > len(c.buffer) {
			return c.slow(filled)
		}
		return c.rest(status, head+4, length, filled)
	}
}

// rest reads what is missing of a body of known length.
func (c *connection) rest(status, start, length, filled int) (int, []byte, error) {
	if filled > start+length {
		return 0, nil, fmt.Errorf("%d bytes follow the answer", filled-start-length)
	}
	if filled < start+length {
		if _, err := io.ReadFull(c.Conn, c.buffer[filled:start+length]); err != nil {
			return 0, nil, fmt.Errorf("receive the body: %w", err)
		}
	}
	return status, c.buffer[start : start+length], nil
}

// slow reads an answer that parseHead cannot: a chunked one, say, or one larger than the buffer.
func (c *connection) slow(filled int) (int, []byte, error) {
	seen := append([]byte(nil), c.buffer[:filled]...)
	response, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(seen), c.Conn)), nil)
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("read the body: %w", err)
	}
	return response.StatusCode, body, nil
}

// parseHead reads the status and the Content-Length of a head whose lines all end in CRLF. It is not ok where that does
// not say how long the body is.
func parseHead(head []byte) (status, length int, ok bool) {
	const version = "HTTP/1.1 "
	if len(head) < len(version)+4 || string(head[:len(version)]) != version {
		return 0, 0, false
	}
	status, err := strconv.Atoi(string(head[len(version) : len(version)+3]))
	if err != nil {
		return 0, 0, false
	}
	const field = "\r\nContent-Length: " // as Go's server writes it
	at := bytes.Index(head, []byte(field))
	if at < 0 {
		return status, 0, false
	}
	value := head[at+len(field):]
	length, err = strconv.Atoi(string(value[:bytes.IndexByte(value, '\r')]))
	return status, length, err == nil && length >= 0
}
