// Package intake takes audit events from the AUDIT stream and hands them to a
// recorder, batch by batch. A message is acknowledged after the recorder made it
// durable and never before, so whatever dies in between, the message comes again
// and the recorder recognises it. Intake must not drop a message, must not judge
// who may see it, and knows no SQL.
package intake

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

const (
	// Durable is the name of the consumer that all replicas share: JetStream
	// gives each message to one of them.
	Durable = "audit"

	// maxBatch is how many events make a batch, of which the last message may bring up to
	// auditevent.MaxBatch more; and how many messages are pulled.
	maxBatch = 500
	// maxPull bounds in bytes what is pulled, and so a batch: 500 messages of the size that
	// NATS takes would be more than a replica has memory for, and more than Postgres takes
	// within recordFor. What a slow link does not bring within beginFor was mostly pulled in
	// vain. Only a message that is larger by itself comes all the same, alone.
	maxPull = 2 << 20
	// gatherFor is how long a first message waits for company, of which others are pulled
	// in the last restFor only: most come at once then, and wake nobody one by one.
	gatherFor = 50 * time.Millisecond
	restFor   = 10 * time.Millisecond
	// pullFor bounds the pull of a first message. A pull that a restarted server forgot is
	// made again after it, and a stopping replica waits no longer for its last.
	pullFor = time.Second
	// ackWait is when JetStream gives the messages of a killed replica to
	// another. A batch takes milliseconds; recordFor, since the first was asked for, ends
	// one that hangs before its messages come again. What was pulled can be several batches:
	// after beginFor only the first of them is begun, and has the rest of recordFor from then
	// on: if its messages come again meanwhile, they are duplicates.
	ackWait   = 10 * time.Second
	recordFor = 8 * time.Second
	beginFor  = recordFor / 2
	// maxUnacked bounds what all replicas together hold.
	maxUnacked = 20 * maxBatch

	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	sampleLag  = time.Second
	askFor     = 5 * time.Second
)

// Config is what an Intake works with; every field is required.
type Config struct {
	Conn      *natsx.Conn
	Recorder  trail.Recorder
	Telemetry *telemetry.Telemetry
	Clock     func() time.Time
}

// Intake is the consumer of one replica.
type Intake struct {
	conn     *natsx.Conn
	recorder trail.Recorder
	log      *slog.Logger
	clock    func() time.Time
	events   *prometheus.CounterVec
	faults   *prometheus.CounterVec
	lag      prometheus.Gauge
}

// New returns an Intake and registers its metrics: agentidp_audit_lag_seconds,
// the age of the oldest event that waits in the stream,
// agentidp_audit_events_total by result (stored, duplicate, dead_letter, retry), and
// agentidp_audit_log_faults_total by fault (other_key, torn), batches that no other
// try will store.
func New(cfg Config) (*Intake, error) {
	in := &Intake{
		conn:     cfg.Conn,
		recorder: cfg.Recorder,
		log:      cfg.Telemetry.Log,
		clock:    cfg.Clock,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentidp_audit_events_total",
			Help: "Events taken from the audit stream, by what became of them.",
		}, []string{"result"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentidp_audit_log_faults_total",
			Help: "Batches that the audit log does not take until somebody repairs it, by what is wrong.",
		}, []string{"fault"}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentidp_audit_lag_seconds",
			Help: "Age of the oldest event that waits in the audit stream, 0 if none does.",
		}),
	}
	for _, metric := range []prometheus.Collector{in.events, in.faults, in.lag} {
		if err := cfg.Telemetry.Metrics.Registry.Register(metric); err != nil {
			return nil, fmt.Errorf("register the metrics of the intake: %w", err)
		}
	}
	for _, result := range []string{resultStored, resultDuplicate, resultDead, resultRetry} {
		in.events.WithLabelValues(result)
	}
	for _, fault := range []string{faultOtherKey, faultTorn} {
		in.faults.WithLabelValues(fault)
	}
	return in, nil
}

// Run takes events until ctx ends and then returns nil. It needs neither NATS nor
// the recorder to be there when it starts, and finds both again after an outage.
func (in *Intake) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		in.take(ctx)
		return nil
	})
	group.Go(func() error {
		in.watchLag(ctx)
		return nil
	})
	return group.Wait()
}

// take keeps a consumer and pumps from it; a consumer that went away, with a
// server that lost its data for one, is made again.
func (in *Intake) take(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		consumer, err := in.declare(ctx)
		if err == nil {
			failures = 0
			err = in.pump(ctx, consumer)
		}
		if err != nil && ctx.Err() == nil {
			failures++
			in.log.WarnContext(ctx, "audit stream cannot be read, will try again", slog.Any("error", err))
			_ = idle.For(ctx, delay(failures))
		}
	}
}

func (in *Intake) declare(ctx context.Context) (jetstream.Consumer, error) {
	if err := in.conn.DeclareAudit(ctx); err != nil {
		return nil, fmt.Errorf("declare the audit stream: %w", err)
	}
	ask, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	consumer, err := in.conn.JS().CreateOrUpdateConsumer(ask, natsx.AuditStream, jetstream.ConsumerConfig{
		Durable:       Durable,
		Description:   "stores audit events; shared by all replicas of the audit service",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: maxUnacked,
	})
	if err != nil {
		return nil, fmt.Errorf("declare the consumer of the audit stream: %w", err)
	}
	return consumer, nil
}

// pump pulls and records until ctx ends (nil) or the consumer cannot be read.
func (in *Intake) pump(ctx context.Context, consumer jetstream.Consumer) error {
	for failures := 0; ctx.Err() == nil; {
		asked := in.clock()
		waiting, broken := gather(ctx, consumer)
		begun, failure := in.work(ctx, waiting, asked)
		switch {
		case failure != nil:
			failures++
			in.log.WarnContext(ctx, "audit events cannot be stored, will try again", slog.Any("error", failure))
			_ = idle.For(ctx, delay(failures))
		case begun:
			failures = 0
		}
		if broken != nil && ctx.Err() == nil {
			return fmt.Errorf("pull: %w", broken)
		}
	}
	return nil
}

// work records what was pulled, batch by batch, until nothing is left, one cannot be recorded, it
// is too late to begin another, or the service stops. The first is begun however late it is: it would
// come late again. What is left is given back, so that another replica has it at once.
func (in *Intake) work(ctx context.Context, waiting []parcel, asked time.Time) (begun bool, err error) {
	for err == nil && len(waiting) > 0 && ctx.Err() == nil && (!begun || in.clock().Sub(asked) < beginFor) {
		messages := fill(waiting)
		err = in.record(ctx, waiting[:messages], recordFor-min(in.clock().Sub(asked), beginFor))
		waiting, begun = waiting[messages:], true
	}
	for _, message := range waiting {
		_ = message.Nak() // not heard: the message comes again after ackWait
	}
	return begun, err
}

// parcel is a message and the payloads of the events in it, one or more.
type parcel struct {
	jetstream.Msg
	payloads [][]byte
}

// gather waits up to pullFor for a first message, of any size, and up to gatherFor for others,
// unless enough of them wait already. With an error it may have taken some all the same.
func gather(ctx context.Context, consumer jetstream.Consumer) ([]parcel, error) {
	first, err := pull(consumer, 1, jetstream.FetchMaxWait(pullFor))
	if err != nil || len(first) == 0 {
		return first, err
	}
	room, wait := max(1, maxPull-len(first[0].Data())), gatherFor
	if !crowded(first[0]) {
		_ = idle.For(ctx, gatherFor-restFor)
		wait = restFor
	}
	var others []parcel
	if ctx.Err() == nil {
		others, err = pull(consumer, maxBatch-1, jetstream.FetchMaxBytes(room), jetstream.FetchMaxWait(wait))
	}
	return append(first, others...), err
}

// crowded tells whether a batch waits behind a message.
func crowded(message jetstream.Msg) bool {
	meta, err := message.Metadata()
	return err == nil && meta.NumPending >= maxBatch
}

// pull takes up to so many messages. With an error it may have taken some all the same.
func pull(consumer jetstream.Consumer, most int, options ...jetstream.FetchOpt) ([]parcel, error) {
	pulled, err := consumer.Fetch(most, options...)
	if err != nil {
		return nil, err
	}
	var parcels []parcel
	for message := range pulled.Messages() {
		parcels = append(parcels, parcel{message, auditevent.Split(message.Subject(), message.Data())})
	}
	return parcels, pulled.Error()
}

// fill is how many messages, of one or more, make a batch.
func fill(waiting []parcel) (messages int) {
	for events := 0; messages < len(waiting) && events < maxBatch; messages++ {
		events += len(waiting[messages].payloads)
	}
	return messages
}

// delay is how long to wait after so many failures (≥ 1): it doubles from
// firstRetry up to lastRetry.
func delay(failures int) time.Duration {
	d := firstRetry
	for range failures - 1 {
		if d *= 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
}
