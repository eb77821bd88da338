# Reads names of functions, one a line, and prints each behind a digest of it that stays what it is while the compiler
# and the versions of crates change: without the ids of crates, and the number of the part or copy
# that LLVM took it for.
BEGIN { for (i = 1; i < 128; i++) code[sprintf("%c", i)] = i }
{
    name = $1
    gsub(/Cs[0-9A-Za-z]+_/, "Cs_", name)
    sub(/(\.llvm)?\.[0-9]+$/, "", name)
    digest = 5381
    for (i = 1; i <= length(name); i++) digest = (digest * 33 + code[substr(name, i, 1)]) % 2147483647
    printf "%08x %s\n", digest, $1
}
