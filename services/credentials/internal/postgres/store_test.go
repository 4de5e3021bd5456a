package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/credentials/internal/postgres"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

var start = time.Date(2026, 11, 22, 9, 0, 0, 123456000, time.UTC)

type fixture struct {
	*postgres.Store
	db *pgdb.DB
}

func setup(t *testing.T) *fixture {
	t.Helper()
	db := testkit.DB(t, "credentials")
	return &fixture{Store: postgres.NewStore(db, outbox.New("credentials")), db: db}
}

// record is a fresh active one, with a current secret of its own.
func record(agentID uuid.UUID, at time.Time) secret.Record {
	return secret.Record{
		Credential: secret.Credential{ID: uuid.New(), AgentID: agentID, Status: secret.Active, CreatedAt: at},
		Current:    seal(),
	}
}

func seal() *secret.Sealed {
	s := secret.Generate()
	return &secret.Sealed{Hash: []byte("hash of " + s.Reveal()[60:]), Fingerprint: secret.FingerprintOf(s)}
}

func message() outbox.Message {
	return outbox.Message{ID: uuid.New(), Subject: "audit.credentials.test", Payload: []byte(`{}`)}
}

func (f *fixture) insert(t *testing.T, r secret.Record) {
	t.Helper()
	err := f.Insert(t.Context(), r.AgentID, start, func(secret.Standing) (secret.Record, []outbox.Message, error) {
		return r, []outbox.Message{message()}, nil
	})
	require.NoError(t, err)
}

func (f *fixture) messages(t *testing.T) int {
	t.Helper()
	var n int
	require.NoError(t, f.db.QueryRow(t.Context(), "SELECT count(*) FROM credentials.outbox").Scan(&n))
	return n
}

// stored reads a record back the way a change sees it.
func (f *fixture) stored(t *testing.T, agentID, id uuid.UUID) secret.Record {
	t.Helper()
	var seen secret.Record
	stop := errors.New("only looking")
	err := f.Change(t.Context(), agentID, id, func(r *secret.Record) ([]outbox.Message, error) {
		seen = *r
		return nil, stop
	})
	require.ErrorIs(t, err, stop)
	return seen
}

func TestAStoredRecordComesBackAsItWas(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	expires := start.Add(time.Hour)
	r.ExpiresAt = &expires
	f.insert(t, r)

	require.Equal(t, r, f.stored(t, r.AgentID, r.ID))
	c, err := f.Find(t.Context(), r.AgentID, r.ID)
	require.NoError(t, err)
	require.Equal(t, r.Credential, c)
	found, err := f.Candidates(t.Context(), r.AgentID, r.Current.Fingerprint)
	require.NoError(t, err)
	require.Equal(t, []secret.Record{r}, found)
	require.Equal(t, 1, f.messages(t))
}

func TestAChangeAndItsMessagesAreStoredTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)

	refused := errors.New("refused")
	for name, attempt := range map[string]func(decide func(*secret.Record) ([]outbox.Message, error)) error{
		"change": func(d func(*secret.Record) ([]outbox.Message, error)) error {
			return f.Change(t.Context(), r.AgentID, r.ID, d)
		},
		"decommission": func(d func(*secret.Record) ([]outbox.Message, error)) error {
			return f.Decommission(t.Context(), r.AgentID, start, d)
		},
	} {
		require.ErrorIs(t, attempt(func(seen *secret.Record) ([]outbox.Message, error) {
			at := start
			seen.Status, seen.RevokedAt, seen.Current = secret.Revoked, &at, nil
			return []outbox.Message{message()}, refused
		}), refused, name)
		// What the outbox cannot take takes the change down with it.
		twice := message()
		require.Error(t, attempt(func(seen *secret.Record) ([]outbox.Message, error) {
			at := start
			seen.Status, seen.RevokedAt, seen.Current = secret.Revoked, &at, nil
			return []outbox.Message{twice, twice}, nil
		}), name)
	}
	require.ErrorIs(t, f.Insert(t.Context(), r.AgentID, start, func(st secret.Standing) (secret.Record, []outbox.Message, error) {
		require.False(t, st.Decommissioned, "a decommission that failed was remembered")
		return secret.Record{}, nil, refused
	}), refused)
	require.Equal(t, r, f.stored(t, r.AgentID, r.ID))
	require.Equal(t, 1, f.messages(t))
}

func TestASecondCredentialOfOneIDIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := record(uuid.New(), start)
	f.insert(t, first)
	again := record(first.AgentID, start)
	again.ID = first.ID
	err := f.Insert(t.Context(), again.AgentID, start, func(secret.Standing) (secret.Record, []outbox.Message, error) {
		return again, []outbox.Message{message()}, nil
	})
	require.ErrorIs(t, err, secret.ErrIDTaken)
	require.Equal(t, first.Current, f.stored(t, first.AgentID, first.ID).Current)
	require.Equal(t, 1, f.messages(t))
}

func TestEveryFieldOfAChangeIsStored(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)

	rotated, until := start.Add(time.Minute), start.Add(time.Hour)
	want := r
	want.RotatedAt, want.PreviousValidUntil = &rotated, &until
	want.Previous, want.Current = r.Current, seal()
	change := func(to secret.Record) {
		require.NoError(t, f.Change(t.Context(), r.AgentID, r.ID, func(seen *secret.Record) ([]outbox.Message, error) {
			*seen = to
			return []outbox.Message{message()}, nil
		}))
	}
	change(want)
	require.Equal(t, want, f.stored(t, r.AgentID, r.ID))
	for _, sealed := range []*secret.Sealed{want.Current, want.Previous} {
		found, err := f.Candidates(t.Context(), r.AgentID, sealed.Fingerprint)
		require.NoError(t, err)
		require.Equal(t, []secret.Record{want}, found)
	}

	current := want.Current
	want.Status, want.RevokedAt, want.Current, want.Previous = secret.Revoked, &rotated, nil, nil
	change(want)
	require.Equal(t, want, f.stored(t, r.AgentID, r.ID))
	found, err := f.Candidates(t.Context(), r.AgentID, current.Fingerprint)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestACredentialIsFoundUnderItsOwnAgentOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)
	other := uuid.New()

	for name, ids := range map[string][2]uuid.UUID{"another agent": {other, r.ID}, "another credential": {r.AgentID, uuid.New()}} {
		_, err := f.Find(t.Context(), ids[0], ids[1])
		require.Equal(t, apperr.CredentialNotFound, apperr.CodeOf(err))
		err = f.Change(t.Context(), ids[0], ids[1], func(*secret.Record) ([]outbox.Message, error) {
			t.Error(name + ": asked to decide about nothing")
			return nil, nil
		})
		require.Equal(t, apperr.CredentialNotFound, apperr.CodeOf(err))
	}
	found, err := f.Candidates(t.Context(), other, r.Current.Fingerprint)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestStandingCountsActiveUnexpiredCredentials(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	st, err := f.Standing(t.Context(), agent, start)
	require.NoError(t, err)
	require.Equal(t, secret.Standing{}, st)

	f.insert(t, record(agent, start))
	expiring := record(agent, start)
	at := start.Add(time.Minute)
	expiring.ExpiresAt = &at
	f.insert(t, expiring)
	for at, want := range map[time.Time]int{at.Add(-time.Microsecond): 2, at: 1} {
		st, err = f.Standing(t.Context(), agent, at)
		require.NoError(t, err)
		require.Equal(t, secret.Standing{Known: true, Active: want}, st)
	}

	require.NoError(t, f.Decommission(t.Context(), agent, start, revoke))
	st, err = f.Standing(t.Context(), agent, start)
	require.NoError(t, err)
	require.Equal(t, secret.Standing{Known: true, Decommissioned: true}, st)
}

func revoke(r *secret.Record) ([]outbox.Message, error) {
	at := start.Add(time.Second)
	r.Status, r.RevokedAt, r.Current, r.Previous = secret.Revoked, &at, nil, nil
	return []outbox.Message{message()}, nil
}

func TestPagesShowEveryCredentialOnceNewestFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	var want []uuid.UUID
	for i := range 7 {
		r := record(agent, start.Add(time.Duration(i/3)*time.Second)) // three share an instant
		f.insert(t, r)
		want = append(want, r.ID)
	}
	all, err := f.List(t.Context(), agent, nil, paging.Page{Limit: 100})
	require.NoError(t, err)
	require.EqualValues(t, 7, all.Total.Items)
	require.Nil(t, all.Next)
	require.ElementsMatch(t, want, ids(all.Items))
	require.True(t, slices.IsSortedFunc(all.Items, func(a, b secret.Credential) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return slices.Compare(b.ID[:], a.ID[:])
	}))

	for limit := 1; limit <= 8; limit++ {
		var byPage, byCursor []uuid.UUID
		for offset := int64(0); offset < 7; offset += int64(limit) {
			l, err := f.List(t.Context(), agent, nil, paging.Page{Limit: limit, Offset: offset})
			require.NoError(t, err)
			require.Equal(t, offset+int64(limit) < 7, l.Next != nil)
			byPage = append(byPage, ids(l.Items)...)
		}
		page := paging.Page{Limit: limit}
		for more := true; more; more = page.After != nil {
			l, err := f.List(t.Context(), agent, nil, page)
			require.NoError(t, err)
			byCursor = append(byCursor, ids(l.Items)...)
			require.EqualValues(t, 7, l.Total.Items)
			page.After, page.Total = l.Next, l.Total
		}
		require.Equal(t, ids(all.Items), byPage, "limit %d", limit)
		require.Equal(t, ids(all.Items), byCursor, "limit %d", limit)
	}
	beyond, err := f.List(t.Context(), agent, nil, paging.Page{Limit: 100, Offset: 99_999_999_900})
	require.NoError(t, err)
	require.Empty(t, beyond.Items)
	require.EqualValues(t, 7, beyond.Total.Items)
}

func TestAWalkBehindACursorCountsOnce(t *testing.T) {
	t.Parallel()
	tel := telemetry.Discard("credentials")
	db, err := pgdb.Open(t.Context(), pgdb.Config{URL: config.Secret(testkit.Postgres(t, "credentials").AppURL), MaxConns: 2}, tel)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	f := &fixture{Store: postgres.NewStore(db, outbox.New("credentials")), db: db}
	agent := uuid.New()
	for range 5 {
		f.insert(t, record(agent, start))
	}
	page := paging.Page{Limit: 2}
	for more := true; more; more = page.After != nil {
		l, err := f.List(t.Context(), agent, nil, page)
		require.NoError(t, err)
		require.EqualValues(t, 5, l.Total.Items)
		page.After, page.Total = l.Next, l.Total
	}
	run := map[string]uint64{}
	families, err := tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "agentidp_db_query_duration_seconds" {
			for _, m := range family.GetMetric() {
				run[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	require.EqualValues(t, 1, run["credential_page"])
	require.EqualValues(t, 2, run["credential_page_after"])
	require.EqualValues(t, 1, run["credential_count"])
}

func ids(credentials []secret.Credential) []uuid.UUID {
	out := make([]uuid.UUID, len(credentials))
	for i, c := range credentials {
		out[i] = c.ID
	}
	return out
}

func TestTheListCanBeFilteredByStatus(t *testing.T) {
	t.Parallel()
	f := setup(t)
	agent := uuid.New()
	live, dead := record(agent, start), record(agent, start)
	f.insert(t, live)
	f.insert(t, dead)
	require.NoError(t, f.Change(t.Context(), agent, dead.ID, revoke))
	for status, want := range map[secret.Status]uuid.UUID{secret.Active: live.ID, secret.Revoked: dead.ID} {
		for _, after := range []*paging.Position{nil, {Time: start.Add(time.Hour)}} {
			l, err := f.List(t.Context(), agent, &status, paging.Page{Limit: 10, After: after, Total: paging.Total{Items: 1}})
			require.NoError(t, err)
			require.Equal(t, []uuid.UUID{want}, ids(l.Items))
			require.EqualValues(t, 1, l.Total.Items)
		}
	}
}

func TestUsesMoveForwardOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)
	use := func(uses ...secret.Use) secret.Credential {
		t.Helper()
		require.NoError(t, f.RecordUses(t.Context(), uses))
		c, err := f.Find(t.Context(), r.AgentID, r.ID)
		require.NoError(t, err)
		return c
	}
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }

	c := use(secret.Use{CredentialID: r.ID, UsedAt: at(2)}, secret.Use{CredentialID: r.ID, UsedAt: at(1)}, secret.Use{CredentialID: uuid.New(), UsedAt: at(9)})
	require.Equal(t, at(2), *c.LastUsedAt)
	c = use(secret.Use{CredentialID: r.ID, UsedAt: at(1)})
	require.Equal(t, at(2), *c.LastUsedAt)
	c = use(secret.Use{CredentialID: r.ID, UsedAt: at(3), Previous: true})
	require.Equal(t, at(3), *c.LastUsedAt)
	require.Nil(t, c.PreviousLastUsedAt, "there is no previous secret")

	rotated, until := at(10), at(70)
	require.NoError(t, f.Change(t.Context(), r.AgentID, r.ID, func(seen *secret.Record) ([]outbox.Message, error) {
		seen.Previous, seen.Current, seen.RotatedAt, seen.PreviousValidUntil = seen.Current, seal(), &rotated, &until
		return nil, nil
	}))
	c = use(secret.Use{CredentialID: r.ID, UsedAt: at(9), Previous: true})
	require.Equal(t, at(9), *c.LastUsedAt)
	require.Nil(t, c.PreviousLastUsedAt, "that was the secret before the previous one")
	c = use(secret.Use{CredentialID: r.ID, UsedAt: at(20)}, secret.Use{CredentialID: r.ID, UsedAt: at(15), Previous: true})
	require.Equal(t, at(20), *c.LastUsedAt)
	require.Equal(t, at(15), *c.PreviousLastUsedAt)
	c = use(secret.Use{CredentialID: r.ID, UsedAt: at(18), Previous: true})
	require.Equal(t, at(20), *c.LastUsedAt)
	require.Equal(t, at(18), *c.PreviousLastUsedAt)
}

func TestTheDatabaseRefusesWhatTheServiceMustNotDo(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := record(uuid.New(), start)
	f.insert(t, r)
	for _, forbidden := range []string{
		"DELETE FROM credentials.credentials",
		"TRUNCATE credentials.credentials",
		"UPDATE credentials.credentials SET agent_id = agent_id",
		"UPDATE credentials.credentials SET expires_at = NULL",
		"UPDATE credentials.credentials SET created_at = now()",
		"DELETE FROM credentials.agents",
		"DROP TABLE credentials.credentials",
		"CREATE TABLE credentials.mine (id int)",
	} {
		_, err := f.db.Exec(t.Context(), forbidden)
		require.ErrorContains(t, err, "42501", forbidden)
	}
	for constraint, inconsistent := range map[string]string{
		"credentials_status_known":           "status = 'paused', secret_hash = NULL, secret_fingerprint = NULL",
		"credentials_revoked_at_with_status": "revoked_at = now()",
		"credentials_secret_while_active":    "secret_hash = NULL, secret_fingerprint = NULL",
		"credentials_previous_whole":         "previous_hash = 'h', previous_fingerprint = '12345678'",
		"credentials_fingerprint_size":       "secret_fingerprint = '1234567'",
	} {
		_, err := f.db.Exec(t.Context(), fmt.Sprintf("UPDATE credentials.credentials SET %s", inconsistent))
		require.Equal(t, constraint, pgdb.Constraint(err), inconsistent)
	}
	late := record(r.AgentID, start)
	late.ExpiresAt = &start
	err := f.Insert(t.Context(), r.AgentID, start, func(secret.Standing) (secret.Record, []outbox.Message, error) {
		return late, nil, nil
	})
	require.Equal(t, "credentials_expires_after_creation", pgdb.Constraint(err))
}

func TestADatabaseThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.db.Close()
	ctx, agent, id := context.Background(), uuid.New(), uuid.New()
	nothing := func(*secret.Record) ([]outbox.Message, error) { return nil, nil }

	_, standing := f.Standing(ctx, agent, start)
	_, list := f.List(ctx, agent, nil, paging.Page{Limit: 1})
	_, find := f.Find(ctx, agent, id)
	_, candidates := f.Candidates(ctx, agent, secret.Fingerprint{})
	for name, err := range map[string]error{
		"standing": standing, "list": list, "find": find, "candidates": candidates,
		"insert":       f.Insert(ctx, agent, start, func(secret.Standing) (secret.Record, []outbox.Message, error) { return secret.Record{}, nil, nil }),
		"change":       f.Change(ctx, agent, id, nothing),
		"decommission": f.Decommission(ctx, agent, start, nothing),
		"uses":         f.RecordUses(ctx, []secret.Use{{CredentialID: id, UsedAt: start}}),
	} {
		require.Error(t, err, name)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	}
}

func TestScreeningFindsSecretsThatHaveNotEnded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	expires, rotated := start.Add(time.Hour), start
	grace := start.Add(time.Minute)
	r := record(uuid.New(), start)
	r.ExpiresAt = &expires
	f.insert(t, r)
	change := func(agentID, id uuid.UUID, to func(*secret.Record)) {
		require.NoError(t, f.Change(t.Context(), agentID, id, func(seen *secret.Record) ([]outbox.Message, error) {
			to(seen)
			return nil, nil
		}))
	}
	change(r.AgentID, r.ID, func(seen *secret.Record) {
		seen.RotatedAt, seen.PreviousValidUntil, seen.Previous, seen.Current = &rotated, &grace, seen.Current, seal()
		r.Current, r.Previous = seen.Current, seen.Previous
	})
	gone := record(uuid.New(), start)
	f.insert(t, gone)
	change(gone.AgentID, gone.ID, func(seen *secret.Record) {
		seen.Status, seen.RevokedAt, seen.Current = secret.Revoked, &rotated, nil
	})

	claims := []secret.Claim{
		{AgentID: r.AgentID, Fingerprint: r.Current.Fingerprint},
		{AgentID: uuid.New(), Fingerprint: r.Current.Fingerprint},
		{AgentID: r.AgentID, Fingerprint: r.Previous.Fingerprint},
		{AgentID: r.AgentID, Fingerprint: seal().Fingerprint},
		{AgentID: gone.AgentID, Fingerprint: gone.Current.Fingerprint},
	}
	for at, want := range map[time.Time][]bool{
		start:   {true, false, true, false, false},
		grace:   {true, false, false, false, false},
		expires: {false, false, false, false, false},
	} {
		plausible, err := f.Screen(t.Context(), claims, at)
		require.NoError(t, err)
		require.Equal(t, want, plausible, at)
	}
	none, err := f.Screen(t.Context(), nil, start)
	require.NoError(t, err)
	require.Empty(t, none)
}
