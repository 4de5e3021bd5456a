package secret_test

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// fixture is a domain on fakes, with one active agent.
type fixture struct {
	*secret.Service
	store    *fakeStore
	registry *fakeRegistry
	hasher   *fakeHasher
	clock    *testkit.Clock
	agent    uuid.UUID
	origin   auditevent.Origin
}

func setup(t *testing.T, maxActive int) *fixture {
	t.Helper()
	actor, clock := uuid.New(), testkit.NewClock(start)
	f := &fixture{
		store:    newFakeStore(clock.Now),
		registry: &fakeRegistry{status: map[uuid.UUID]string{}},
		hasher:   &fakeHasher{},
		clock:    clock,
		agent:    uuid.New(),
		origin:   auditevent.Origin{ActorID: &actor, IPAddress: "192.0.2.7", UserAgent: "test", RequestID: "req-1"},
	}
	f.registry.status[f.agent] = registryapi.StatusActive
	f.Service = secret.NewService(secret.Options{
		Store: f.store, Registry: f.registry, Hasher: f.hasher, Clock: f.clock.Now, NewID: uuid.New, MaxActive: maxActive,
	})
	return f
}

func (f *fixture) create(t *testing.T) secret.Issued {
	t.Helper()
	issued, err := f.Create(t.Context(), f.agent, nil, f.origin)
	require.NoError(t, err)
	return issued
}

func (f *fixture) verify(t *testing.T, s config.Secret) secret.Verdict {
	t.Helper()
	v, err := f.Verify(t.Context(), f.agent, s)
	require.NoError(t, err)
	return v
}

// fakeStore keeps records in memory; one lock stands for all of Postgres'.
type fakeStore struct {
	mu       sync.Mutex
	agents   map[uuid.UUID]time.Time // when decommissioned, zero if not
	records  map[uuid.UUID]secret.Record
	uses     []secret.Use
	outbox   []outbox.Message
	failing  error
	screened time.Time // when it was asked to screen last
	inserted func()    // runs before an insert takes the lock

	clock     func() time.Time // by which deletions are due
	deletions []secret.Deletion
	lastID    int64 // of a deletion
	refusing  error // what changes fail with, after all was decided
}

var _ secret.Store = (*fakeStore)(nil)

func newFakeStore(clock func() time.Time) *fakeStore {
	return &fakeStore{clock: clock, agents: map[uuid.UUID]time.Time{}, records: map[uuid.UUID]secret.Record{}}
}

func (s *fakeStore) standing(agentID uuid.UUID, at time.Time) secret.Standing {
	ended, known := s.agents[agentID]
	st := secret.Standing{Known: known, Decommissioned: !ended.IsZero()}
	for _, r := range s.records {
		if r.AgentID == agentID && r.Status == secret.Active && !r.Expired(at) {
			st.Active++
		}
	}
	return st
}

func (s *fakeStore) Standing(_ context.Context, agentID uuid.UUID, at time.Time) (secret.Standing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing(agentID, at), s.failing
}

func (s *fakeStore) Insert(_ context.Context, agentID uuid.UUID, at time.Time, decide func(secret.Standing) (secret.Record, []outbox.Message, error)) error {
	if s.inserted != nil {
		s.inserted()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, msgs, err := decide(s.standing(agentID, at))
	if err != nil {
		return err
	}
	if s.refusing != nil {
		return s.refusing
	}
	if _, taken := s.records[r.ID]; taken {
		return secret.ErrIDTaken
	}
	if _, ok := s.agents[agentID]; !ok {
		s.agents[agentID] = time.Time{}
	}
	s.records[r.ID] = r
	s.outbox = append(s.outbox, msgs...)
	return nil
}

func (s *fakeStore) List(_ context.Context, agentID uuid.UUID, status *secret.Status, page paging.Page) (paging.Listing[secret.Credential], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l paging.Listing[secret.Credential]
	for _, r := range s.records {
		if r.AgentID == agentID && (status == nil || *status == r.Status) {
			l.Items = append(l.Items, r.Credential)
			l.Total.Items++
		}
	}
	if page.After != nil {
		l.Total = page.Total
	}
	return l, s.failing
}

func (s *fakeStore) Find(_ context.Context, agentID, credentialID uuid.UUID) (secret.Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[credentialID]
	if !ok || r.AgentID != agentID {
		return secret.Credential{}, secret.NotFound()
	}
	return r.Credential, nil
}

func (s *fakeStore) Change(_ context.Context, agentID, credentialID uuid.UUID, decide func(*secret.Record) ([]outbox.Message, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[credentialID]
	if !ok || r.AgentID != agentID {
		return secret.NotFound()
	}
	msgs, err := decide(&r)
	if err != nil {
		return err
	}
	if s.refusing != nil {
		return s.refusing
	}
	s.put(r)
	s.outbox = append(s.outbox, msgs...)
	return nil
}

func (s *fakeStore) Decommission(_ context.Context, agentID uuid.UUID, at time.Time, decide func(*secret.Record) ([]outbox.Message, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents[agentID] = at
	for _, r := range s.records {
		if r.AgentID != agentID || r.Status != secret.Active {
			continue
		}
		msgs, err := decide(&r)
		if err != nil {
			return err
		}
		s.put(r)
		s.outbox = append(s.outbox, msgs...)
	}
	return nil
}

func (s *fakeStore) Candidates(_ context.Context, agentID uuid.UUID, f secret.Fingerprint) ([]secret.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []secret.Record
	for _, r := range s.records {
		current := r.Current != nil && r.Current.Fingerprint == f
		previous := r.Previous != nil && r.Previous.Fingerprint == f
		if r.AgentID == agentID && (current || previous) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b secret.Record) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return found, s.failing
}

func (s *fakeStore) Screen(ctx context.Context, claims []secret.Claim, at time.Time) ([]bool, error) {
	s.screened = at
	known := make([]bool, len(claims))
	for i, c := range claims {
		found, _ := s.Candidates(ctx, c.AgentID, c.Fingerprint)
		known[i] = len(found) > 0
	}
	return known, s.failing
}

func (s *fakeStore) RecordUses(_ context.Context, uses []secret.Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses = append(s.uses, uses...)
	return nil
}

// put stores a record, and what it has unwanted apart from it.
func (s *fakeStore) put(r secret.Record) {
	for _, d := range r.Unwanted {
		s.lastID++
		d.ID = s.lastID
		s.deletions = append(s.deletions, d)
	}
	r.Unwanted = nil
	s.records[r.ID] = r
}

func (s *fakeStore) DueDeletions(_ context.Context, _ time.Duration, most int) ([]secret.Deletion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []secret.Deletion
	for _, d := range s.deletions {
		if !d.DueAt.After(s.clock()) && len(due) < most {
			due = append(due, d)
		}
	}
	return due, s.failing
}

func (s *fakeStore) Deleted(_ context.Context, id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deletions = slices.DeleteFunc(s.deletions, func(d secret.Deletion) bool { return d.ID == id })
	return s.failing
}

func (s *fakeStore) CountDeletions(ctx context.Context) (int, error) {
	due, err := s.DueDeletions(ctx, 0, len(s.deletions))
	return len(due), err
}

// sent are the audit events and the subjects of all messages stored so far.
func (s *fakeStore) sent(t *testing.T) (events []auditevent.Event, subjects []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.outbox {
		subjects = append(subjects, m.Subject)
		if bytes.HasPrefix([]byte(m.Subject), []byte("audit.")) {
			events = append(events, testkit.Event(t, m.Payload))
		}
	}
	return events, subjects
}

type fakeRegistry struct {
	mu     sync.Mutex
	status map[uuid.UUID]string
	down   bool
	asked  int
}

func (r *fakeRegistry) Agent(_ context.Context, id uuid.UUID) (registryapi.Agent, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.down {
		return registryapi.Agent{}, apperr.Unavailable(nil)
	}
	status, ok := r.status[id]
	if !ok {
		return registryapi.Agent{}, apperr.New(apperr.AgentNotFound, "no such agent")
	}
	return registryapi.Agent{AgentID: id, Status: status}, nil
}

// fakeHasher is quick, and counts what would have been slow.
type fakeHasher struct {
	mu       sync.Mutex
	hashed   int
	compared int
	during   func() // runs while a comparison computes
	failing  error
}

func (h *fakeHasher) Hash(_ context.Context, s config.Secret) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hashed++
	return []byte("hash of " + s.Reveal()), h.failing
}

func (h *fakeHasher) Matches(_ context.Context, hash []byte, s config.Secret) (bool, error) {
	h.mu.Lock()
	h.compared++
	during, failing := h.during, h.failing
	h.mu.Unlock()
	if during != nil {
		during()
	}
	return string(hash) == "hash of "+s.Reveal(), failing
}
