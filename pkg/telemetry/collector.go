package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// attemptTimeout bounds one request to the collector, the answer included.
	attemptTimeout = 10 * time.Second
	firstPause     = time.Second
	longestPause   = 10 * time.Second
	// maxAnswer is how much of an answer is read, in bytes, so that the connection can be used again.
	maxAnswer = 64 << 10
)

// collector sends spans to an OTLP/HTTP collector as protobuf. OpenTelemetry's own client for that, otlptracehttp, does
// more than we need and links gRPC, whose debug pages are templates; a template may call any method, so the linker
// then keeps every method of everything, which is a quarter of a service's program.
//
// What a collector takes but does not keep (a partial success) is its own to report.
type collector struct {
	url    string
	header http.Header
	client *http.Client
}

var _ otlptrace.Client = (*collector)(nil)

// newCollector sends to the URL of a traces endpoint, with further headers in the form that parseHeaders reads.
func newCollector(endpoint string, headers config.Secret) (*collector, error) {
	header, err := parseHeaders(headers)
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/x-protobuf")
	return &collector{url: endpoint, header: header, client: &http.Client{Timeout: attemptTimeout}}, nil
}

// Start connects to nothing: the collector need not be up.
func (c *collector) Start(context.Context) error { return nil }

// Stop closes the connections that are idle; the exporter calls it after its last upload.
func (c *collector) Stop(context.Context) error {
	c.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, again while the collector is away or asks for patience, until ctx ends.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	makeValid(spans)
	// A TracesData is an ExportTraceServiceRequest on the wire, and does not bring the gRPC service with it.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode traces: %w", err)
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		wait, err := c.attempt(ctx, body)
		if err == nil || wait < 0 {
			return err
		}
		if idle.For(ctx, max(wait, pause)) != nil {
			return err
		}
	}
}

// makeValid replaces what is not UTF-8 in the attributes of spans, some of which callers choose (User-Agent, X-Forwarded-For,
// the host): protobuf has no other text, and one such span would take all that are sent with it along.
func makeValid(spans []*tracepb.ResourceSpans) {
	for _, resource := range spans {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				for _, attribute := range span.GetAttributes() {
					if text, ok := attribute.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
						text.StringValue = strings.ToValidUTF8(text.StringValue, "\ufffd")
					}
				}
			}
		}
	}
}

// attempt sends body once. Where that failed, wait is how long the collector asked to be left alone, and negative if
// another attempt would fail too.
func (c *collector) attempt(ctx context.Context, body []byte) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return -1, fmt.Errorf("send traces: %w", err)
	}
	req.Header = c.header.Clone()
	res, err := c.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("send traces: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // only so that the connection can be used again
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		return 0, nil
	}
	err = fmt.Errorf("send traces: the collector answered %s", res.Status)
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16) // 0 where there is none, or a date
		return time.Duration(seconds) * time.Second, err
	default:
		return -1, err
	}
}

// parseHeaders reads key=value pairs with commas between them, values percent-encoded, as OpenTelemetry writes them.
func parseHeaders(text config.Secret) (http.Header, error) {
	header := make(http.Header)
	for pair := range strings.SplitSeq(text.Reveal(), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, encoded, isPair := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(encoded))
		if !isPair || err != nil || !httpguts.ValidHeaderFieldName(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS: must be key=value pairs with commas between them")
		}
		header.Set(name, value)
	}
	return header, nil
}
