package auditor_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// fork is a log with the same key that has another past from leaf size on.
func (a *audit) fork(size, events int) *audit {
	a.t.Helper()
	b := &audit{t: a.t, signer: a.signer, verifier: a.verifier}
	for _, r := range a.rows[:size] {
		b.log(r.event)
	}
	b.add(events - size)
	return b
}

// lines of an export from the first to the last leaf before end, with the first line of head, and complete or cut off.
func (a *audit) pretend(head *audit, end int64, complete bool) []byte {
	a.t.Helper()
	lines := bytes.SplitAfter(a.export(0), []byte("\n"))
	out := append([][]byte{bytes.SplitAfter(head.export(0), []byte("\n"))[0]}, lines[1:1+end]...)
	if complete {
		out = append(out, lines[len(lines)-2])
	}
	return bytes.Join(out, nil)
}

func TestAStateIsNotMovedOntoAFork(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 30)
	kept := a.checkpoint()
	forked := a.fork(20, 40)
	for name, export := range map[string][]byte{
		"cut off":                   a.pretend(forked, 30, false),
		"said to be complete":       a.pretend(forked, 30, true),
		"nothing but the beginning": a.pretend(forked, 0, true),
	} {
		trail := auditor.NewTrail(a.verifier)
		trail.Keep(kept)
		require.NoError(t, trail.Read(bytes.NewReader(export)), name)
		require.False(t, trail.Report().Proven(), name)
		require.Nil(t, trail.Believed(), name)
		require.Zero(t, trail.Solid(), name)
	}
	first := auditor.NewTrail(a.verifier)
	require.NoError(t, first.Read(bytes.NewReader(a.pretend(forked, 30, false))))
	require.False(t, first.Report().Proven())
	require.Nil(t, first.Believed(), "nor is it the first one to be kept")
	require.Zero(t, first.Solid())
}

func TestHashesBeforeAGapAreNotTakenForSigned(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	forged := *a
	forged.leaves, forged.rows = slices.Clone(a.leaves), slices.Clone(a.rows)
	forged.rows[7].event = []byte(`{"eventId":"forged"}`)
	forged.leaves[7] = auditlog.HashLeaf(forged.rows[7].event)
	lines := bytes.SplitAfter(forged.export(0), []byte("\n"))
	trail := auditor.NewTrail(a.verifier)
	require.NoError(t, trail.Read(bytes.NewReader(bytes.Join(lines[:20], nil))))
	require.NoError(t, trail.Read(bytes.NewReader(a.export(30))))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {19}}, kinds(trail.Report()), "the row from leaf 30 on makes the root")
	require.Zero(t, trail.Solid())
}

// answer serves one and the same export, whatever is asked for.
func (a *audit) answer(export []byte) *auditor.Client {
	a.t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(a.signed()) })
	mux.HandleFunc("GET /api/v1/audit/export", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(export) })
	server := httptest.NewServer(mux)
	a.t.Cleanup(server.Close)
	client, err := auditor.NewClient(server.URL, server.Client())
	require.NoError(a.t, err)
	client.Impatient()
	return client
}

func TestAServiceThatKeepsEventsBackProvesNothing(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 30)
	trail := auditor.NewTrail(a.verifier)
	require.ErrorContains(t, auditor.Online(t.Context(), a.answer(a.picked(true)), trail, 0, false), "filtered")
	require.False(t, trail.Report().Proven())
	require.Nil(t, trail.Believed())

	trail = auditor.NewTrail(a.verifier)
	require.NoError(t, auditor.Online(t.Context(), a.answer(a.export(20)), trail, 0, false))
	report := trail.Report()
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {0}}, kinds(report), "leaves 0 to 19 were not shown")
	require.EqualValues(t, 19, report.Findings[0].Through)

	empty := newAudit(t, 0)
	empty.signer, empty.verifier = a.signer, a.verifier
	trail = auditor.NewTrail(a.verifier)
	require.NoError(t, auditor.Online(t.Context(), a.answer(empty.export(0)), trail, 0, false))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(trail.Report()), "a shorter log, although there is a head")
	require.Nil(t, trail.Believed())
}

func TestAFilteredExportSaysThatItIsOne(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 30)
	kept := a.checkpoint()
	a.add(10)
	text := func(r *auditor.Report) string {
		var b bytes.Buffer
		require.NoError(t, r.WriteText(&b))
		return b.String()
	}
	trail := auditor.NewTrail(a.verifier)
	require.NoError(t, trail.Read(bytes.NewReader(a.picked(true))))
	require.Contains(t, text(trail.Report()), "filtered")
	require.NotContains(t, text(trail.Report()), "everything")
	require.Nil(t, trail.Believed(), "it shows nothing of the way to its checkpoint")

	trail = auditor.NewTrail(a.verifier)
	trail.Keep(kept)
	require.NoError(t, trail.Read(bytes.NewReader(a.picked(true, 3))))
	require.False(t, trail.Report().Proven())
	require.Nil(t, trail.Believed())
	require.Contains(t, text(check(t, a, a.export(0))), "everything")
}

func TestCheckpointsThatContradictEachOtherAreFound(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	other := a.fork(20, 50)
	report := check(t, a, a.picked(true, 3), other.picked(true, 3))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Forked: {-1}}, kinds(report), "two roots for one size")

	longer := a.fork(20, 60)
	report = check(t, a, a.picked(true, 3), longer.picked(true, 3))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(report), "nothing leads from one to the other")
	require.Contains(t, report.Findings[0].Detail, "connects")

	require.Contains(t, kinds(check(t, a, other.picked(true, 3), a.export(0))), auditor.Forked)
	require.Contains(t, kinds(check(t, a, a.pretend(longer, 30, false), a.export(30))), auditor.Unproven)
	a.add(10)
	require.Contains(t, kinds(check(t, a, a.export(0), longer.export(60))), auditor.Forked)
}

// Two ways to go on from one tree are both consistent with it, and not with each other.
func TestACommonBeginningConnectsNothing(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 30)
	kept := a.checkpoint()
	left, right := a.fork(30, 40), a.fork(30, 50)
	trail := auditor.NewTrail(a.verifier)
	trail.Keep(kept)
	require.NoError(t, auditor.Online(t.Context(), left.serve(), trail, 0, true))
	require.NoError(t, auditor.Online(t.Context(), right.serve(), trail, 0, true))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(trail.Report()))
}

func TestManyFindingsHideNoVerdict(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 1100)
	a.rows[1050].event = []byte(`{"eventId":"forged"}`)
	kept := newAudit(t, 60).checkpoint()
	trail := auditor.NewTrail(a.verifier)
	trail.Keep(kept)
	var noise bytes.Buffer
	lines := bytes.SplitAfter(a.export(0), []byte("\n"))
	noise.Write(lines[0])
	for range 2000 {
		noise.Write(auditlog.AppendExportLine(nil, a.size()+5, auditlog.HashLeaf(nil), []byte(`{}`), nil))
	}
	noise.Write(bytes.Join(lines[1:], nil))
	require.NoError(t, trail.Read(&noise))
	report := trail.Report()
	require.Positive(t, report.More)
	require.Contains(t, kinds(report), auditor.Forked)
	require.Contains(t, kinds(report), auditor.Changed)
	require.Nil(t, trail.Believed())
}

func TestALineThatReadsDifferentlyElsewhereIsNone(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 2)
	whole := string(a.export(0))
	for name, change := range map[string][2]string{
		"a second event in another case":  {`,"event":{`, `,"Event":{"eventId":"shown"},"event":{`},
		"another case alone":              {`,"event":{`, `,"EVENT":{`},
		"an event twice":                  {`,"event":{`, `,"event":{"eventId":"shown"},"event":{`},
		"an escape in a name":             {`,"event":{`, `,"\u0065vent":{`},
		"a member that nobody knows":      {`,"event":{`, `,"note":1,"event":{`},
		"a leaf and a first line in one":  {`{"leafIndex":1,`, `{"treeSize":2,"leafIndex":1,`},
		"a leaf and a last line in one":   {`{"leafIndex":1,`, `{"cursor":"2","leafIndex":1,`},
		"a leaf without its index":        {`{"leafIndex":1,`, `{`},
		"an index that is null":           {`{"leafIndex":1,`, `{"leafIndex":null,`},
		"a last line without its days":    {`,"dropped":[]`, ``},
		"a day with a second number":      {`"dropped":[]`, `"dropped":[{"day":"2026-01-01","events":1,"Events":2,"firstLeaf":0,"lastLeaf":0}]`},
		"a day without a number":          {`"dropped":[]`, `"dropped":[{"day":"2026-01-01","firstLeaf":0,"lastLeaf":0}]`},
		"a first line that says it twice": {`"filtered":false`, `"filtered":true,"filtered":false`},
		"two values in one line":          {`{"leafIndex":1,`, `{} {"leafIndex":1,`},
		"an array":                        {`{"leafIndex":1,`, `[]` + "\n" + `{"leafIndex":1,`},
	} {
		changed := strings.Replace(whole, change[0], change[1], 1)
		require.NotEqual(t, whole, changed, name)
		require.ErrorContains(t, auditor.NewTrail(a.verifier).Read(strings.NewReader(changed)), "not a line of an export", name)
	}
	spaced := strings.NewReplacer(`{"leafIndex":`, " { \"leafIndex\" :\t", `,"event":`, ` , "event" : `, "}\n", "} \r\n").Replace(whole)
	require.True(t, check(t, a, []byte(spaced)).Proven())
}

func TestAProofThatReadsDifferentlyElsewhereIsNone(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 5)
	raw, err := json.Marshal(a.proof(2))
	require.NoError(t, err)
	whole := string(raw)
	got, err := auditor.ParseProof([]byte(" " + strings.Replace(whole, `,"leaf":`, " ,\n\"leaf\" : ", 1) + "\n"))
	require.NoError(t, err)
	require.Equal(t, a.proof(2), got)

	for name, change := range map[string][2]string{
		"another leaf, and the true one in another case": {`"leaf":`, `"leaf":"{\"eventId\":\"shown\"}","Leaf":`},
		"another case alone":                             {`"leaf":`, `"Leaf":`},
		"a leaf twice":                                   {`"leaf":`, `"leaf":"{}","leaf":`},
		"an escape in a name":                            {`"leaf":`, `"\u006ceaf":`},
		"a member that nobody knows":                     {`{`, `{"event":{},`},
		"a number that is left out":                      {`"leafIndex":2,`, ``},
		"a number that is null":                          {`"leafIndex":2,`, `"leafIndex":null,`},
		"two values":                                     {`{`, `{}{`},
	} {
		changed := strings.Replace(whole, change[0], change[1], 1)
		require.NotEqual(t, whole, changed, name)
		_, err := auditor.ParseProof([]byte(changed))
		require.Error(t, err, name)
		_, err = a.replies(changed).Proof(t.Context(), a.eventID(2))
		require.Error(t, err, name)
	}
	_, err = a.replies(`{"from":2,"to":5,"hashes":[],"Hashes":[]}`).Consistency(t.Context(), 2, 5)
	require.Error(t, err)
}

// replies serves one and the same text, whatever is asked for.
func (a *audit) replies(text string) *auditor.Client {
	a.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
	a.t.Cleanup(server.Close)
	client, err := auditor.NewClient(server.URL, server.Client())
	require.NoError(a.t, err)
	return client
}

func TestAnEventIsNamedByTheMemberThatSaysSo(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 0)
	a.log([]byte(`{"EVENTID":"shown","eventId":"true","x":[{"eventId":"inner"},"}\"]"]}`))
	a.log([]byte(`{"eventid":"other"}`))
	a.leaves[0][0] ^= 1
	a.leaves[1][0] ^= 1
	ids := map[string]bool{}
	for _, f := range check(t, a, a.export(0)).Findings {
		ids[f.EventID] = true
	}
	require.True(t, ids["true"], "%v", ids)
	require.False(t, ids["other"] || ids["shown"] || ids["inner"])
}

func TestALineWithoutEndIsNotHeldInMemory(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 1)
	head := bytes.SplitAfter(a.export(0), []byte("\n"))[0]
	err := a.answer(append(head, bytes.Repeat([]byte(" "), 2<<20)...)).Export(t.Context(), nil, 0, func([]byte) error { return nil })
	require.ErrorContains(t, err, "too long")
}
