package httpapi_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

// oracle is a log that answers what it was told to and remembers what it was asked.
type oracle struct {
	err      error
	asked    uuid.UUID
	from     int64
	to       *int64
	tile     tlog.Tile
	note     string
	proof    auditlog.Proof
	hashes   []tlog.Hash
	tileData []byte
}

func (o *oracle) Checkpoint(context.Context) ([]byte, error) { return []byte(o.note), o.err }

func (o *oracle) Prove(_ context.Context, id uuid.UUID) (auditlog.Proof, error) {
	o.asked = id
	return o.proof, o.err
}

func (o *oracle) Consistency(_ context.Context, from int64, to *int64) (auditlog.Consistency, error) {
	o.from, o.to = from, to
	return auditlog.Consistency{From: from, To: 9, Hashes: o.hashes}, o.err
}

func (o *oracle) Tile(_ context.Context, tile tlog.Tile) ([]byte, error) {
	o.tile = tile
	return o.tileData, o.err
}

func TestTheCheckpointIsPlainTextForEverybody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who")
	b.log.note = "origin\n1\nroot\n\n— origin sig\n"
	response := b.do(t, http.MethodGet, "/api/v1/audit/checkpoint")
	require.Equal(t, http.StatusOK, response.Code)
	require.Equal(t, b.log.note, response.Body.String())
	require.Equal(t, "text/plain; charset=utf-8", response.Header().Get("Content-Type"))
	require.Equal(t, "no-cache", response.Header().Get("Cache-Control"))
}

func TestAProofIsForWhoMayReadTheTrail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, hash := uuid.New(), auditlog.HashLeaf([]byte("{}"))
	b.log.proof = auditlog.Proof{LeafIndex: 3, TreeSize: 9, Hashes: []tlog.Hash{hash}, Checkpoint: "note\n", Leaf: "{}", LeafHash: hash}
	target := "/api/v1/audit/" + id.String() + "/proof"

	response := b.do(t, http.MethodGet, target)
	require.Equal(t, http.StatusOK, response.Code)
	require.Equal(t, id, b.log.asked)
	require.JSONEq(t, `{"leafIndex":3,"treeSize":9,"hashes":["`+hash.String()+`"],"checkpoint":"note\n","leaf":"{}","leafHash":"`+hash.String()+`"}`,
		response.Body.String())

	require.Equal(t, http.StatusBadRequest, b.do(t, http.MethodGet, "/api/v1/audit/x/proof").Code)
	b.log.err = apperr.New(apperr.AuditEventNotFound, "none")
	require.Equal(t, http.StatusNotFound, b.do(t, http.MethodGet, target).Code)
	b.gate.denied = apperr.New(apperr.Forbidden, "no").WithChallenge(`Bearer error="insufficient_scope", scope="audit:read"`)
	require.Equal(t, http.StatusForbidden, b.do(t, http.MethodGet, target).Code)
	b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who")
	require.Equal(t, http.StatusUnauthorized, b.do(t, http.MethodGet, target).Code)
}

func TestConsistencyReadsTwoSizes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who")
	b.log.hashes = []tlog.Hash{auditlog.HashLeaf(nil)}
	response := b.do(t, http.MethodGet, "/api/v1/audit/consistency?from=4&to=9")
	require.Equal(t, http.StatusOK, response.Code)
	require.JSONEq(t, `{"from":4,"to":9,"hashes":["`+auditlog.HashLeaf(nil).String()+`"]}`, response.Body.String())
	require.EqualValues(t, 9, *b.log.to)
	require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/audit/consistency?from=0").Code)
	require.Nil(t, b.log.to)

	for query, fields := range map[string][]string{
		"":                               {"from"},
		"?to=3":                          {"from"},
		"?from=-1&to=x":                  {"from", "to"},
		"?from=01":                       {"from"},
		"?from=1&to=9223372036854775808": {"to"},
		"?from=1&size=2":                 {"size"},
		"?from=1&from=2":                 {"from"},
	} {
		response := b.do(t, http.MethodGet, "/api/v1/audit/consistency"+query)
		require.Equal(t, http.StatusBadRequest, response.Code, query)
		var got []string
		for _, e := range decode[refusal](t, response).Details.Errors {
			got = append(got, e.Field)
		}
		require.Equal(t, fields, got, query)
	}
}

func TestTilesAreFoundByTheirPaths(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.log.tileData = []byte{1, 2, 3}
	for path, want := range map[string]tlog.Tile{
		"0/000":                {H: 8, L: 0, N: 0, W: 256},
		"0/000.p/5":            {H: 8, L: 0, N: 0, W: 5},
		"1/x001/234":           {H: 8, L: 1, N: 1234, W: 256},
		"0/x001/x234/067.p/12": {H: 8, L: 0, N: 1234067, W: 12},
		"0/x001%2F234":         {H: 8, L: 0, N: 1234, W: 256},
		"entries/001":          {H: 8, L: -1, N: 1, W: 256},
		"entries/x001/234.p/7": {H: 8, L: -1, N: 1234, W: 7},
	} {
		response := b.do(t, http.MethodGet, "/api/v1/audit/tile/"+path)
		require.Equal(t, http.StatusOK, response.Code, path)
		require.Equal(t, want, b.log.tile, path)
		require.Equal(t, "application/octet-stream", response.Header().Get("Content-Type"))
		require.Contains(t, response.Header().Get("Cache-Control"), "immutable")
		require.Equal(t, b.log.tileData, response.Body.Bytes())
	}
	for _, path := range []string{"0/0", "8/000", "0/001234", "0/000.p/0", "0/000.p/256", "x/000", "data/000", "-1/000", "0/000/"} {
		require.Equal(t, http.StatusBadRequest, b.do(t, http.MethodGet, "/api/v1/audit/tile/"+path).Code, path)
	}
	b.log.err = apperr.New(apperr.NotFound, "none")
	response := b.do(t, http.MethodGet, "/api/v1/audit/tile/0/000")
	require.Equal(t, http.StatusNotFound, response.Code)
	require.Equal(t, "no-store", response.Header().Get("Cache-Control"))
}

func TestHashesAreForEverybodyAndEntriesAreNot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who")
	require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/audit/tile/0/000").Code)
	require.Equal(t, http.StatusUnauthorized, b.do(t, http.MethodGet, "/api/v1/audit/tile/entries/000").Code)
	b.gate.unauthenticated = nil
	b.gate.denied = apperr.New(apperr.Forbidden, "no").WithChallenge(`Bearer error="insufficient_scope", scope="audit:read"`)
	require.Equal(t, http.StatusForbidden, b.do(t, http.MethodGet, "/api/v1/audit/tile/entries/000").Code)
	require.Contains(t, b.do(t, http.MethodGet, "/api/v1/audit/tile/0/000").Header().Get("Cache-Control"), "public")
}
