// Command tlogcheck replays a published log with golang.org/x/mod's tree and note code, sharing nothing with the
// product: it exits 0 and prints one line, or 1 with a sentence that says what does not hold.
//
//	tlogcheck [-witness VKEY]... DIR VKEY
//	tlogcheck -receipts [-witness VKEY]... FILE VKEY
//
// FILE holds entries and their receipts, by turns, as a bundle holds entries; what a receipt says beside its place
// ("extra") is not looked at.
//
// Checked: the checkpoint's signature (and each wanted cosignature/v1); every entry, hashed again; every tile and
// bundle there is, partial ones included; the root; every archived checkpoint, by a consistency proof; and an
// inclusion proof for a few entries. Formats: C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-cosignature,
// tlog-proof.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight, tileWidth = 8, 1 << 8

// stored is the whole tree in memory, in tlog's own order of hashes.
type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(s)) {
			return nil, fmt.Errorf("no hash %d", x)
		}
		out[i] = s[x]
	}
	return out, nil
}

// cosigner verifies cosignature/v1: key type 4, a time in front of the signature.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(sig))
	return ed25519.Verify(c.key, append([]byte(head), msg...), sig[8:])
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "tlogcheck: "+format+"\n", args...)
	os.Exit(1)
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func newCosigner(vkey string) note.Verifier {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		fail("witness key %q is not a vkey", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != 4 {
		fail("witness key %q is not of type 4", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	return cosigner{parts[0], binary.BigEndian.Uint32(sum[:]), key[1:]}
}

// open authenticates a checkpoint file and returns its tree.
func open(path string, log note.Verifier, witnesses []note.Verifier) tlog.Tree {
	data, err := os.ReadFile(path)
	check(err, "checkpoint")
	return openNote(data, path, log, witnesses)
}

func openNote(data []byte, path string, log note.Verifier, witnesses []note.Verifier) tlog.Tree {
	opened, err := note.Open(data, note.VerifierList(append([]note.Verifier{log}, witnesses...)...))
	check(err, path)
	if len(opened.Sigs) != 1+len(witnesses) {
		fail("%s has %d of %d wanted signatures", path, len(opened.Sigs), 1+len(witnesses))
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != log.Name() {
		fail("%s is not a checkpoint of %s", path, log.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, path)
	return tlog.Tree{N: size, Hash: decodeHash(lines[2], path)}
}

func decodeHash(text, path string) tlog.Hash {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data) != tlog.HashSize {
		fail("%s: %q is no hash", path, text)
	}
	var hash tlog.Hash
	copy(hash[:], data)
	return hash
}

// checkReceipt checks a tlog-proof: its checkpoint, and that it leads from the entry to the root.
func checkReceipt(entry, receipt []byte, log note.Verifier, witnesses []note.Verifier) {
	const name = "receipt"
	head, checkpoint, _ := bytes.Cut(receipt, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" {
		fail("not a tlog-proof")
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		fail("a receipt without an index")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	check(err, name)
	var proof tlog.RecordProof
	for _, line := range lines[1:] {
		proof = append(proof, decodeHash(line, name))
	}
	tree := openNote(checkpoint, name, log, witnesses)
	check(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)), name)
}

// tilePath is C2SP's path of a tile; level -1 is an entry bundle.
func tilePath(t tlog.Tile) string {
	path := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

func readBundle(path string, width int) [][]byte {
	entries := readParts(path)
	if len(entries) != width {
		fail("%s holds %d entries, not %d", path, len(entries), width)
	}
	return entries
}

// readParts splits a file into what stands behind lengths of two bytes.
func readParts(path string) [][]byte {
	data, err := os.ReadFile(path)
	check(err, "bundle")
	var entries [][]byte
	for len(data) >= 2 {
		n := int(binary.BigEndian.Uint16(data))
		if len(data) < 2+n {
			fail("%s is cut off in entry %d", path, len(entries))
		}
		entries, data = append(entries, data[2:2+n]), data[2+n:]
	}
	if len(data) != 0 {
		fail("%s is cut off after entry %d", path, len(entries))
	}
	return entries
}

func main() {
	var wanted list
	flag.Var(&wanted, "witness", "vkey of a witness whose cosignature must be there")
	receipts := flag.Bool("receipts", false, "check receipts instead of a log")
	flag.Parse()
	if flag.NArg() != 2 {
		fail("usage: tlogcheck [-witness VKEY]... DIR VKEY, or -receipts FILE VKEY")
	}
	dir := flag.Arg(0)
	log, err := note.NewVerifier(flag.Arg(1))
	check(err, "log key")
	var witnesses []note.Verifier
	for _, vkey := range wanted {
		witnesses = append(witnesses, newCosigner(vkey))
	}
	if *receipts {
		parts := readParts(dir)
		if len(parts) == 0 || len(parts)%2 != 0 {
			fail("%s does not hold entries and receipts by turns", dir)
		}
		for i := 0; i < len(parts); i += 2 {
			checkReceipt(parts[i], parts[i+1], log, witnesses)
		}
		fmt.Printf("%s: %d receipts\n", log.Name(), len(parts)/2)
		return
	}
	tree := open(filepath.Join(dir, "checkpoint"), log, witnesses)

	// Every entry, hashed again, into a tree of our own.
	var hashes stored
	for n := int64(0); n*tileWidth < tree.N; n++ {
		tile := tlog.Tile{H: tileHeight, L: -1, N: n, W: tileWidth}
		if rest := tree.N - n*tileWidth; rest < tileWidth {
			tile.W = int(rest)
		}
		for i, entry := range readBundle(filepath.Join(dir, tilePath(tile)), tile.W) {
			more, err := tlog.StoredHashes(n*tileWidth+int64(i), entry, hashes)
			check(err, "tree")
			hashes = append(hashes, more...)
		}
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	check(err, "root")
	if root != tree.Hash {
		fail("%d entries lead to root %v, but %v is signed", tree.N, root, tree.Hash)
	}

	// Every tile the tree needs, and every other tile or bundle that lies there.
	seen := map[string]bool{}
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		width := (tree.N >> (tileHeight * uint(tile.L))) - tile.N*tileWidth
		if int64(tile.W) == width || tile.W == tileWidth {
			checkTile(dir, tile, hashes)
			seen[tilePath(tile)] = true
		}
	}
	check(filepath.WalkDir(filepath.Join(dir, "tile"), func(path string, item fs.DirEntry, err error) error {
		// A name with a leading dot is what an interrupted write left behind, never part of a log.
		if err != nil || item.IsDir() || strings.HasPrefix(item.Name(), ".") {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		inner := strings.Replace(name, "tile/entries/", "tile/data/", 1)
		tile, err := tlog.ParseTilePath(strings.Replace(inner, "tile/", "tile/8/", 1))
		if err != nil || seen[name] {
			return err
		}
		if tile.L >= 0 {
			checkTile(dir, tile, hashes)
			return nil
		}
		for i, entry := range readBundle(path, tile.W) {
			index := tlog.StoredHashIndex(0, tile.N*tileWidth+int64(i))
			if index >= int64(len(hashes)) || tlog.RecordHash(entry) != hashes[index] {
				return fmt.Errorf("entry %d of %s is not in the tree", i, name)
			}
		}
		return nil
	}), "tile/")

	// Every archived checkpoint is a prefix, by proof; some entries are in, by proof.
	archived, err := filepath.Glob(filepath.Join(dir, "archive", "*"))
	check(err, "archive/")
	for _, path := range archived {
		old := open(path, log, nil)
		if old.N < 1 || old.N > tree.N || filepath.Base(path) != strconv.FormatInt(old.N, 10) {
			fail("%s is of size %d", path, old.N)
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		check(err, "consistency")
		check(tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash), path)
	}
	for _, n := range []int64{0, tree.N / 2, tree.N - 1} {
		proof, err := tlog.ProveRecord(tree.N, n, hashes)
		check(err, "inclusion")
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, n, hashes[tlog.StoredHashIndex(0, n)]), "inclusion")
	}
	fmt.Printf("%s: %d entries, %d archived checkpoints, root %v\n", log.Name(), tree.N, len(archived), root)
}

func checkTile(dir string, tile tlog.Tile, hashes stored) {
	data, err := os.ReadFile(filepath.Join(dir, tilePath(tile)))
	check(err, "tile")
	want, err := tlog.ReadTileData(tile, hashes)
	check(err, tilePath(tile))
	if !bytes.Equal(data, want) {
		fail("%s is not what the entries make", tilePath(tile))
	}
}
