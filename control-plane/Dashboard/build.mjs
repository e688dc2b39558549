// Builds the dashboard into ../wwwroot, which is committed: a gateway is built and run without npm.
// The same sources and lock file give the same bytes; `./evenkeel test browser` holds the committed ones against them.
//   node build.mjs [OUTPUT_DIRECTORY]
import { build } from 'esbuild'
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { join, resolve } from 'node:path'

const here = fileURLToPath(new URL('.', import.meta.url))
const out = resolve(process.argv[2] ?? join(here, '..', 'wwwroot'))
await rm(out, { recursive: true, force: true })
await mkdir(out, { recursive: true })
await build({
  absWorkingDir: here,
  entryPoints: { app: 'src/main.tsx' },
  outdir: out,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'eof',
  logLevel: 'warning',
})
for (const file of ['index.html', 'icon.svg']) await copyFile(join(here, 'src', file), join(out, file))
await writeFile(join(out, '.gitattributes'), '# Built from ../Dashboard.\n*.js -diff linguist-generated\n*.css -diff linguist-generated\n')
