package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// run is one run on one rig.
type run struct {
	rig      *rig.Rig
	seed     uint64
	duration time.Duration
	ledger   ledger
	tap      tap
	observer observer
	poisoner poisoner
	judge    judge
	rounds   int // of rolling that are over

	outMu sync.Mutex
	out   io.Writer
	begin time.Time
	// over is when the load ended.
	over time.Time
}

func (r *run) say(format string, args ...any) {
	r.outMu.Lock()
	defer r.outMu.Unlock()
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

func newRandom(seed, stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, stream)) // #nosec G404 -- to be repeated, not to be secret
}

// replicas of services, as clients reach them.
func (r *run) replicas(services ...string) map[string][]replica {
	all := map[string][]replica{}
	for _, name := range r.rig.Instances(services...) {
		service := rig.Program(name)
		all[service] = append(all[service], replica{name: name, address: r.rig.Public(name)})
	}
	return all
}

// errUnbalanced means that the books do not balance; what is wrong has been said.
var errUnbalanced = errors.New("the books do not balance")

// everything puts the load on the rig, strikes it as the schedule says, waits until it has come to rest, and balances
// the books.
func (r *run) everything(ctx context.Context) error {
	before, err := r.open(ctx)
	if err != nil {
		return err
	}
	schedule := plan(r.seed, r.duration, everyTarget(r.rig.Instances()))
	r.say("seed %d, %s, %d faults; the same again: make fault DURATION=%s SEED=%d", r.seed, r.duration, len(schedule), r.duration, r.seed)

	r.begin = time.Now()
	loaded, stop := context.WithDeadline(ctx, r.begin.Add(r.duration))
	defer stop()
	var working sync.WaitGroup
	working.Go(func() { r.load(loaded) })
	working.Go(func() { r.observe(loaded) })
	working.Go(func() { r.poison(loaded) })
	blows, strikeErr := r.strike(ctx, r.begin, schedule)
	working.Wait()
	r.over = time.Now()
	if strikeErr != nil {
		return strikeErr
	}
	r.say("the load has ended; everything comes to rest")
	if err := r.rig.WaitReady(ctx, time.Minute); err != nil {
		return err
	}
	if err := r.rollCall(ctx); err != nil {
		return err
	}
	return r.close(ctx, before, schedule, func() []finding { return r.enough(blows) })
}

// open the books: what stands in them before the load is not judged.
func (r *run) open(ctx context.Context) ([]event, error) {
	if err := r.tap.start(r.rig); err != nil {
		return nil, err
	}
	if err := r.settle(ctx); err != nil {
		return nil, fmt.Errorf("before the load: %w", err)
	}
	return r.stored(ctx)
}

// close the books once all has come to rest; more is what else was found.
func (r *run) close(ctx context.Context, before []event, schedule []fault, more func() []finding) error {
	healed := time.Now()
	settleErr := r.settle(ctx)
	if settleErr == nil {
		r.say("at rest after %.1fs", time.Since(healed).Seconds())
	}
	for _, line := range r.ledger.summary() {
		r.say("  %s", line)
	}
	found, err := r.books(ctx, before)
	found = append(found, more()...)
	if err != nil || settleErr != nil {
		r.tell(ctx, found, schedule)
		return errors.Join(settleErr, err)
	}
	if len(found)+len(r.ledger.surprises) > 0 {
		r.tell(ctx, found, schedule)
		return errUnbalanced
	}
	return r.rig.Alive()
}

// books are balanced here: what is found wrong.
func (r *run) books(ctx context.Context, before []event) ([]finding, error) {
	bearer, err := r.auditor(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	stored, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	earlier := map[string]bool{}
	for _, e := range before {
		earlier[e.id] = true
	}
	found := balance(r.ledger.actions, slices.DeleteFunc(slices.Clone(stored), func(e event) bool { return earlier[e.id] }))
	held, err := r.state(ctx)
	if err != nil {
		return found, err
	}
	found = append(found, held.reconcile(stored)...)
	found = append(found, r.unchanged(stored)...)
	for _, name := range r.rig.Instances("audit") {
		shown, err := r.shown(ctx, r.rig.Public(name), bearer)
		if err != nil {
			return found, err
		}
		found = append(found, agree(shown, stored, differs)...)
	}
	dead, err := r.deadLetters(ctx)
	if found = append(found, dead...); err != nil {
		return found, err
	}
	began := time.Now()
	unproven, err := r.proven(ctx, stored, bearer)
	found = append(found, unproven...)
	r.say("%d events, %d of them seen on their way, all proofs asked for in %.1fs; %d checkpoints seen; %d findings",
		len(stored), len(r.tap.byID), time.Since(began).Seconds(), len(r.observer.seen), len(found))
	return found, err
}

// unchanged holds what is stored against what was published.
func (r *run) unchanged(stored []event) []finding {
	var found []finding
	for _, e := range stored {
		payload := r.tap.payload(e.id)
		if payload == nil {
			continue
		}
		published, err := readEvent(payload)
		if err != nil {
			found = append(found, finding{what: "published and not readable: " + e.String(), requests: []string{e.request}})
			continue
		}
		if !reflect.DeepEqual(published.members, e.members) {
			found = append(found, finding{what: "stored otherwise than published: " + e.String(), requests: []string{e.request}})
		}
	}
	return found
}

func (r *run) deadLetters(ctx context.Context) ([]finding, error) {
	rows, err := r.rig.DB().Query(ctx, "SELECT subject, reason, payload FROM audit.dead_letters")
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l letter, err error) {
		err = row.Scan(&l.subject, &l.reason, &l.payload)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	r.say("%d messages that are no events, and %d that were repeated; %d dead letters",
		len(r.poisoner.acknowledged), r.poisoner.repeated, len(letters))
	return r.poisoner.buried(letters), nil
}

const (
	mostTold  = 20
	mostLines = 6
	// nearby is how long before an action a fault can have been over and still matter.
	nearby = 15 * time.Second
)

// tell says what is wrong, and where each event was last seen.
func (r *run) tell(ctx context.Context, found []finding, schedule []fault) {
	for i, surprise := range r.ledger.surprises {
		if i == mostTold {
			r.say("… and %d more answers", len(r.ledger.surprises)-mostTold)
			break
		}
		r.say("WRONG ANSWER %s", surprise)
	}
	for i, f := range found {
		if i == mostTold {
			r.say("… and %d more findings", len(found)-mostTold)
			break
		}
		r.say("WRONG %s", f.what)
		for _, line := range r.traces(ctx, f, schedule) {
			r.say("    %s", line)
		}
	}
}

// traces of a finding: on the wire, in the outboxes, among the dead letters, in the logs, and the faults at that time.
func (r *run) traces(ctx context.Context, f finding, schedule []fault) []string {
	var lines []string
	for _, request := range f.requests {
		if request == "" {
			continue
		}
		for _, s := range r.tap.seen(request) {
			lines = append(lines, fmt.Sprintf("last seen on the wire: %s, %d times from %s to %s: %s", s.subject, s.times,
				s.first.UTC().Format(clock), s.last.UTC().Format(clock), s.payload))
		}
		lines = append(lines, r.tables(ctx, request)...)
		for _, line := range r.rig.LogLines(request, mostLines) {
			lines = append(lines, "log of "+line)
		}
	}
	if len(lines) == 0 && len(f.requests) > 0 {
		lines = append(lines, "never seen: not on the wire, in no outbox, not among the dead letters, in no log")
	}
	if f.from.IsZero() {
		return lines
	}
	for _, fault := range schedule {
		if r.begin.Add(fault.at).Before(f.to.Add(time.Second)) && r.begin.Add(fault.end()).After(f.from.Add(-nearby)) {
			lines = append(lines, fmt.Sprintf("fault at %s: %s", r.begin.Add(fault.at).UTC().Format(clock), strings.TrimSpace(fault.String())))
		}
	}
	return lines
}

// tables that hold an event before it is in the trail, or instead.
func (r *run) tables(ctx context.Context, request string) []string {
	var lines []string
	for _, table := range []string{"token.outbox", "registry.outbox", "credentials.outbox", "audit.dead_letters"} {
		var count int
		sql := "SELECT count(*) FROM " + table + " WHERE position(convert_to($1, 'UTF8') IN payload) > 0"
		if err := r.rig.DB().QueryRow(ctx, sql, request).Scan(&count); err != nil {
			lines = append(lines, fmt.Sprintf("%s cannot be read: %v", table, err))
		} else if count > 0 {
			lines = append(lines, fmt.Sprintf("last seen in %s: %d rows", table, count))
		}
	}
	return lines
}
