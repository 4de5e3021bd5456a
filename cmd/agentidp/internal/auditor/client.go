package auditor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// maxAnswer bounds the answers that are read as a whole.
	maxAnswer = 1 << 20
	// stalled is how long an export may say nothing before it is asked for again.
	stalled = time.Minute
	// attempts bounds how often an export is asked for without getting any further.
	attempts = 6
)

// Client reads the public routes of the audit service. It believes nothing of what it reads.
type Client struct {
	base  string
	http  *http.Client
	pause func(context.Context, time.Duration) error
}

// NewClient reads from the provider at base, as in https://idp.example.com. The HTTP client adds the access
// token where a route needs one, and must not bound the time of a whole answer.
func NewClient(base string, client *http.Client) (*Client, error) {
	parsed, err := url.Parse(base)
	if err != nil || parsed.Scheme != "https" && parsed.Scheme != "http" || parsed.Host == "" || parsed.RawQuery != "" {
		return nil, fmt.Errorf("%q is not the URL of a provider", base)
	}
	return &Client{base: strings.TrimRight(base, "/") + "/api/v1/audit", http: client, pause: idle.For}, nil
}

// refusedError is an answer other than 200.
type refusedError struct {
	route  string
	status int
	body   string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("GET %s: %d: %s", e.route, e.status, e.body)
}

// passing tells an answer that may be another one next time.
func (e *refusedError) passing() bool {
	return e.status == http.StatusTooManyRequests || e.status >= http.StatusInternalServerError
}

func (c *Client) get(ctx context.Context, route string, query url.Values) (io.ReadCloser, error) {
	target := c.base + route
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer func() { _ = answer.Body.Close() }()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 512))
		return nil, &refusedError{route: "/audit" + route, status: answer.StatusCode, body: strings.TrimSpace(string(text))}
	}
	return answer.Body, nil
}

func (c *Client) read(ctx context.Context, route string, query url.Values) ([]byte, error) {
	body, err := c.get(ctx, route, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(io.LimitReader(body, maxAnswer))
}

// Checkpoint asks for the newest signed checkpoint.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.read(ctx, "/checkpoint", nil)
}

// Consistency asks for the proof that the tree of from leaves is the beginning of that of to leaves.
func (c *Client) Consistency(ctx context.Context, from, to int64) (auditlog.Consistency, error) {
	raw, err := c.read(ctx, "/consistency", url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}})
	if err != nil {
		return auditlog.Consistency{}, err
	}
	return parseConsistency(raw)
}

// Proof asks for the proof that an event is in the log.
func (c *Client) Proof(ctx context.Context, eventID uuid.UUID) (auditlog.Proof, error) {
	raw, err := c.read(ctx, "/"+eventID.String()+"/proof", nil)
	if err != nil {
		return auditlog.Proof{}, err
	}
	return ParseProof(raw)
}

// Export reads an export line by line, newline left out, from leaf cursor on. Where the connection breaks it
// asks again from the leaf behind the last whole line, which makes a further part with a first line of its own.
func (c *Client) Export(ctx context.Context, filter url.Values, cursor int64, use func(raw []byte) error) error {
	return c.export(ctx, filter, cursor, func(raw []byte, _ *line) error { return use(raw) })
}

// export hands on what a line says as well: it has to be parsed anyway, to know where to go on.
func (c *Client) export(ctx context.Context, filter url.Values, cursor int64, use func(raw []byte, l *line) error) error {
	at := &position{place: place{next: cursor}}
	for failures := 0; ; {
		before := at.next
		err := c.part(ctx, filter, at, use)
		var refused *refusedError
		switch {
		case err == nil && at.complete:
			return nil
		case err != nil && (errors.Is(err, errUse) || ctx.Err() != nil):
			return err
		case errors.As(err, &refused) && !refused.passing():
			return err
		case at.next != before:
			failures = 0
			continue
		}
		if failures++; failures >= attempts {
			return fmt.Errorf("the export gets no further than cursor=%d: %w", at.next, err)
		}
		if err := c.pause(ctx, time.Second<<(failures-1)); err != nil {
			return err
		}
	}
}

// position is how far an export has been read.
type position struct {
	place

	complete bool
}

// errUse marks an error of who uses the lines: asking again would not help.
var errUse = errors.New("export")

func (c *Client) part(ctx context.Context, filter url.Values, at *position, use func(raw []byte, l *line) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(stalled, cancel)
	defer watchdog.Stop()
	query := url.Values{"cursor": {strconv.FormatInt(at.next, 10)}}
	for key, values := range filter {
		query[key] = values
	}
	body, err := c.get(ctx, "/export", query)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	reader := bufio.NewReaderSize(body, 1<<16)
	for {
		raw, err := readLine(reader)
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("%w: %w", errUse, err)
		}
		if err != nil { // a line without its newline is cut off
			return fmt.Errorf("the export broke off: %w", err)
		}
		watchdog.Reset(stalled)
		l, err := parse(raw)
		if err != nil {
			return fmt.Errorf("%w: %w", errUse, err)
		}
		if l == nil {
			continue
		}
		if err := use(raw[:len(raw)-1], l); err != nil {
			return fmt.Errorf("%w: %w", errUse, err)
		}
		at.pass(l)
		if l.Cursor != nil {
			at.complete = l.Complete
			return nil
		}
	}
}

// readLine reads a line with its newline, of at most maxLine bytes.
func readLine(reader *bufio.Reader) (line []byte, err error) {
	for {
		piece, err := reader.ReadSlice('\n')
		if len(line)+len(piece) > maxLine {
			return nil, bufio.ErrTooLong
		}
		line = append(line, piece...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
