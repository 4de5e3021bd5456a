package authn

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"time"

	"github.com/maypok86/otter/v2"
)

// memoCapacity bounds how many good tokens a verifier remembers.
const memoCapacity = 10_000

// digest of a token: a token itself is never kept.
type digest [sha256.Size]byte

// verdict is what stays true of a token whose signature and claims were good once. What changes is held against it each
// time: the clock, and whether the key is still published.
type verdict struct {
	principal Principal
	key       Key
	// from and until bound when its time claims are good, leeway included.
	from, until time.Time
}

// memo remembers good tokens. An agent sends its token many times, and the signature is most of what each request costs.
type memo struct{ verdicts *otter.Cache[digest, verdict] }

func newMemo() memo {
	return memo{otter.Must(&otter.Options[digest, verdict]{MaximumSize: memoCapacity})}
}

func (m memo) keep(sum digest, key Key, c claims, leeway time.Duration) {
	from := c.IssuedAt.Time
	if c.NotBefore != nil && c.NotBefore.After(from) {
		from = c.NotBefore.Time
	}
	m.verdicts.Set(sum, verdict{
		principal: c.principal(), key: key,
		from: from.Add(-leeway), until: c.ExpiresAt.Add(leeway),
	})
}

// holds says whether the verdict is good now, with the key that has its id now.
func (v verdict) holds(now time.Time, key Key) bool {
	return !now.Before(v.from) && now.Before(v.until) && key.Algorithm == v.key.Algorithm && same(key.Public, v.key.Public)
}

// same tells whether two public keys are one, most often by being the same value in memory.
func same(a, b crypto.PublicKey) bool {
	if pointer, ok := a.(*rsa.PublicKey); ok && pointer == b {
		return true
	}
	public, ok := a.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && public.Equal(b)
}
